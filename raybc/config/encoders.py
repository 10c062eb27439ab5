"""The built-in kinds of image encoders. This module does not import PyTorch."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
class PretrainedOptions(ImageOptions):
    """Options of encoders that may start from given weights."""

    download: ClassVar[str]
    """The value of `pretrained` that has a library download the weights."""

    pretrained: str = option("none", role=Role.OUTPUT, axis="a sweep has one start")
    """Weights that the encoders start from: a file (safetensors or .pth) with the names of torchvision (ResNets) or
    timm (vit), imagenet (ResNets: downloaded by torchvision), timm (vit: downloaded by timm), or none."""
    pretrained_sha256: str = option("", only_with=({"pretrained": CHANGED},), axis="it is found in the weights")
    """Required sha256 of these weights (empty: any; recorded when training starts)."""

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoders start from given weights."""
        return self.pretrained not in ("", "none")

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        if self.is_pretrained and run.init_from and not run.init_partial:
            raise UserError(
                f"{flag_path(where)}pretrained: expected none with init_from, which replaces all weights, got "
                f"{self.pretrained}; leave one of them out"
            )
        if self.pretrained_sha256 and not self.is_pretrained:
            raise UserError(f"{flag_path(where)}pretrained_sha256: has no effect without pretrained; name a file there")


@dataclass(frozen=True)
class ResNetOptions(PretrainedOptions):
    """Options of ResNets."""

    builder: ClassVar[str] = "raybc.policies.encoders.resnet:build"
    by_step: ClassVar[bool] = True
    download: ClassVar[str] = "imagenet"

    image_norm: Literal["group", "batch"] = "group"
    """GroupNorm with 16 channels a group, or BatchNorm, which has no place beside averaged weights (ema_decay)."""
    image_pool: Literal["spatial_softmax", "average"] = "spatial_softmax"
    """How feature maps become features: the positions of keypoints, or the average over the image."""
    image_keypoints: int = option(32, at_least=1, only_with=({"image_pool": "spatial_softmax"},))
    """Keypoints of the spatial softmax, two features each."""
    image_head: Literal["none", "relu"] = "none"
    """relu: a linear layer of the same size and ReLU after pooling, as in LeRobot's diffusion policy."""

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


@register("resnet18")
@dataclass(frozen=True)
class ResNet18(ResNetOptions):
    """ResNet-18 with GroupNorm."""


@register("resnet34")
@dataclass(frozen=True)
class ResNet34(ResNetOptions):
    """ResNet-34 with GroupNorm."""


@register("vit")
@dataclass(frozen=True)
class ViT(PretrainedOptions):
    """Vision transformer of the package timm."""

    builder: ClassVar[str] = "raybc.policies.encoders.vit:build"
    by_step: ClassVar[bool] = True
    download: ClassVar[str] = "timm"

    vit_model: str = "vit_small_patch16_224"
    """timm's name of the model, and of its weights where there are several, such as vit_small_patch16_224.dino: colours
    are normalised as these weights expect it."""
    vit_frozen: bool = False
    """The model keeps the weights that it starts from; otherwise it is fine-tuned."""

    @property
    def smallest(self) -> int:  # type: ignore[override]
        """One patch."""
        return max(self._network().model_of(self.vit_model).patch)

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        if self.vit_frozen and not self.is_pretrained and not run.init_from:
            raise UserError(
                f"{flag_path(where)}vit_frozen: expected weights to keep, got pretrained = {self.pretrained}; name "
                "them with pretrained or init_from, or fine-tune the model"
            )
        if self.vit_frozen and run.freeze_epochs and not run.freeze:
            raise UserError(
                f"{flag_path(where)}freeze_epochs: expected 0 with vit_frozen, which freezes the encoder for good, got "
                f"{run.freeze_epochs}; leave one of them out"
            )

    def check_available(self, where: str) -> None:
        """Also the name of the model, and the size of a crop."""
        self._network().model_of(self.vit_model)
        if self.crop is not None:
            self._network().check_size(self.vit_model, self.crop, f"{flag_path(where)}image_crop")

    def check_sizes(self, images: Mapping[str, tuple[int, ...]]) -> None:
        for name, (height, width, *_) in images.items():
            if self.crop is None:
                self._network().check_size(self.vit_model, (height, width), f"--encoder=vit: {name}")

    @staticmethod
    def _network() -> Any:
        """The module of the network, which imports PyTorch."""
        return importlib.import_module("raybc.policies.encoders.vit")
