"""The built-in kinds of image encoders. This module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from raybc.config.component import EncoderConfig, register
from raybc.config.options import option


@register("None")
@dataclass(frozen=True)
class NoEncoder(EncoderConfig):
    """No images."""


@dataclass(frozen=True)
class _Impala(EncoderConfig):
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
class ResNetOptions(EncoderConfig):
    """Options of ResNets."""

    builder: ClassVar[str] = "raybc.policies.encoders.resnet:build"
    by_step: ClassVar[bool] = True

    image_pool: Literal["spatial_softmax", "average"] = "spatial_softmax"
    """How feature maps become features: the positions of keypoints, or the average over the image."""
    image_keypoints: int = option(32, at_least=1, only_with=({"image_pool": "spatial_softmax"},))
    """Keypoints of the spatial softmax, two features each."""

    @property
    def smallest(self) -> int:  # type: ignore[override]
        """Feature maps have a pixel for 32 x 32 of the image; the position in a map of one pixel is always the same."""
        return 33 if self.image_pool == "spatial_softmax" else 1


@register("resnet18")
@dataclass(frozen=True)
class ResNet18(ResNetOptions):
    """ResNet-18 with GroupNorm."""


@register("resnet34")
@dataclass(frozen=True)
class ResNet34(ResNetOptions):
    """ResNet-34 with GroupNorm."""
