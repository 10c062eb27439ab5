"""The built-in kinds of image encoders. This module does not import PyTorch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from raybc.config.component import EncoderConfig, register
from raybc.config.options import CHANGED, Role, flag_path, option
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig


@register("None")
@dataclass(frozen=True)
class NoEncoder(EncoderConfig):
    """No images."""


@dataclass(frozen=True)
class ImageOptions(EncoderConfig):
    """What is done to images before they are encoded; an encoder of your own may inherit it."""

    image_crop: str = ""
    """Height and width of a crop, such as "76,76": random in training, the centre when acting (empty: none)."""
    image_shift: int = option(0, at_least=0)
    """Pixels by which images are shifted at random in training; their edges are repeated."""
    p_aug: float = option(1.0, above=0.0, at_most=1.0, only_with=({"image_shift": CHANGED},))
    """Probability of a shift."""
    image_shared: bool = False
    """One encoder for all cameras, whose images must have one size, instead of one for each."""
    color_jitter: float = option(0.0, at_least=0.0, at_most=1.0)
    """Largest relative change of brightness, contrast and saturation in training."""

    @property
    def crop(self) -> tuple[int, int] | None:
        """(height, width), or None."""
        if not self.image_crop:
            return None
        height, _, width = self.image_crop.partition(",")
        return int(height), int(width or height)

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        if self.image_crop and not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})?", self.image_crop):
            raise UserError(
                f"{flag_path(where)}image_crop: expected a size or 'HEIGHT,WIDTH' in pixels, such as 76 or 76,100, "
                f"got {self.image_crop!r}"
            )


@dataclass(frozen=True)
class _Impala(ImageOptions):
    builder: ClassVar[str] = "raybc.policies.encoders.impala:build"
    channels: ClassVar[tuple[int, ...]]
    blocks: ClassVar[int]
    """Residual blocks in each stack."""
    features: ClassVar[int]


@register("impala_small")
@dataclass(frozen=True)
class ImpalaSmall(_Impala):
    """IMPALA's residual network, one block per stack."""

    channels, blocks, features = (16, 32, 32), 1, 512


@register("impala")
@dataclass(frozen=True)
class Impala(_Impala):
    """IMPALA's residual network, two blocks per stack."""

    channels, blocks, features = (16, 32, 32), 2, 512


@register("impala_large")
@dataclass(frozen=True)
class ImpalaLarge(_Impala):
    """IMPALA's residual network, two wide blocks per stack."""

    channels, blocks, features = (64, 128, 128), 2, 1024


@dataclass(frozen=True)
class ResNetOptions(ImageOptions):
    """Options of ResNets."""

    builder: ClassVar[str] = "raybc.policies.encoders.resnet:build"
    by_step: ClassVar[bool] = True

    image_norm: Literal["group", "batch"] = "group"
    """GroupNorm with 16 channels a group, or BatchNorm, which has no place beside averaged weights (ema_decay)."""
    image_pool: Literal["spatial_softmax", "average"] = "spatial_softmax"
    """How feature maps become features: the positions of keypoints, or the average over the image."""
    image_keypoints: int = option(32, at_least=1, only_with=({"image_pool": "spatial_softmax"},))
    """Keypoints of the spatial softmax, two features each."""
    pretrained: str = option("none", role=Role.OUTPUT, axis="a sweep has one start")
    """Weights that the encoders start from: a file with torchvision's names (safetensors or .pth), imagenet (downloaded
    by torchvision), or none."""
    pretrained_sha256: str = option("", only_with=({"pretrained": CHANGED},), axis="it is found in the weights")
    """Required sha256 of these weights (empty: any; recorded when training starts)."""

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoders start from given weights."""
        return self.pretrained not in ("", "none")

    @property
    def smallest(self) -> int:  # type: ignore[override]
        """Feature maps have a pixel for 32 x 32 of the image; the position in a map of one pixel is always the same."""
        return 33 if self.image_pool == "spatial_softmax" else 1

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        if self.image_norm == "batch" and run.ema_decay:
            raise UserError(
                f"{flag_path(where)}image_norm: expected group with ema_decay = {run.ema_decay:g}, got batch: averaged "
                "weights do not fit the running averages of BatchNorm, which are those of the latest weights"
            )
        if self.is_pretrained and run.init_from and not run.init_partial:
            raise UserError(
                f"{flag_path(where)}pretrained: expected none with init_from, which replaces all weights, got "
                f"{self.pretrained}; leave one of them out"
            )
        if self.pretrained_sha256 and not self.is_pretrained:
            raise UserError(f"{flag_path(where)}pretrained_sha256: has no effect without pretrained; name a file there")


@register("resnet18")
@dataclass(frozen=True)
class ResNet18(ResNetOptions):
    """ResNet-18 with GroupNorm."""


@register("resnet34")
@dataclass(frozen=True)
class ResNet34(ResNetOptions):
    """ResNet-34 with GroupNorm."""
