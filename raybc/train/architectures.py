"""Networks of other libraries whose weights an encoder may start from: their names and shapes, and where they are."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from raybc.config.encoders import PretrainedOptions, ResNetOptions, ViT
from raybc.policies.encoders import vit
from raybc.policies.encoders.resnet import BLOCKS, torchvision_shapes
from raybc.types import UserError

Shape = tuple[int, ...]


class Architecture(ABC):
    """The network that the weights of an encoder must fit."""

    title: str
    """What it is called in messages."""
    library: str
    """The package that can download the weights."""
    url: str
    """Where the weights can be had."""
    usual: str
    """The same in a sentence, with the line of Python that gives them."""

    @abstractmethod
    def is_backbone(self, name: str) -> bool:
        """Whether a weight of this name is no part of the last layer, and no counter."""

    @abstractmethod
    def expected(self, got: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """Name -> shape of the weights that it has. got: those of a file; what may vary is as it is there."""

    @abstractmethod
    def advice(self, got: Mapping[str, Shape]) -> str:
        """Which options these weights would fit; empty if none is known."""

    @abstractmethod
    def download(self) -> Mapping[str, Tensor]:
        """Name -> weight. Raises `UserError` without the package, and whatever it raises without a network."""


class ResNetOfTorchvision(Architecture):
    """A ResNet of torchvision."""

    library = "torchvision"
    #: Where torchvision's weights of ImageNet are, by the kind of encoder.
    urls = {  # noqa: RUF012 (never changed)
        "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    }

    def __init__(self, options: ResNetOptions) -> None:
        self._kind, self._norm = options.kind, options.image_norm
        self.title = f"{self._kind} with image_norm {self._norm}"
        self.url = self.urls.get(self._kind, self.urls["resnet18"])
        self.usual = (
            f"those of ImageNet are at {self.url}, or torchvision.models.{self._kind}(weights='IMAGENET1K_V1')"
            ".state_dict(), saved with safetensors"
        )

    def is_backbone(self, name: str) -> bool:
        return not name.startswith("fc.") and not name.endswith("num_batches_tracked")

    def expected(self, got: Mapping[str, Shape]) -> Mapping[str, Shape]:
        shapes = torchvision_shapes(self._kind)
        if self._norm == "group":  # weights of a network with GroupNorm have no running averages
            return {name: shape for name, shape in shapes.items() if "running_" not in name or name in got}
        return shapes

    def advice(self, got: Mapping[str, Shape]) -> str:
        fitting = [kind for kind in BLOCKS if torchvision_shapes(kind) == got]
        return f"they fit --encoder={fitting[0]}" if fitting else ""

    def download(self) -> Mapping[str, Tensor]:
        try:
            models = importlib.import_module("torchvision.models")
        except Exception as error:  # also what an incompatible torchvision raises
            raise UserError(
                f"pretrained: imagenet needs the package torchvision ({error}); download {self.url} where there is a "
                "network, and name the file: --pretrained=FILE"
            ) from None
        weights: Mapping[str, Tensor] = next(iter(models.get_model_weights(self._kind))).get_state_dict(
            progress=False, check_hash=True
        )
        return weights


class ViTOfTimm(Architecture):
    """A vision transformer of timm."""

    library = "timm"

    def __init__(self, options: ViT) -> None:
        self.title = self._name = options.vit_model
        self.url = vit.model_of(self._name).url
        self.usual = (
            f"those of timm are at {self.url}, or timm.create_model('{self._name}', pretrained=True).state_dict(), "
            "saved with safetensors"
        )

    def is_backbone(self, name: str) -> bool:
        return not name.startswith(tuple(f"{head}." for head in vit.model_of(self._name).heads))

    def expected(self, got: Mapping[str, Shape]) -> Mapping[str, Shape]:
        model = vit.model_of(self._name)
        shapes, positions = dict(model.shapes), got.get(vit.POSITIONS, ())
        if vit.POSITIONS in shapes and len(positions) == 3:  # (1, positions, width): resampled for other images
            own = shapes[vit.POSITIONS]
            if vit.grid_of(positions[1] - model.prefix, model):
                shapes[vit.POSITIONS] = (own[0], positions[1], own[2])
        return shapes

    def advice(self, got: Mapping[str, Shape]) -> str:
        return ""

    def download(self) -> Mapping[str, Tensor]:
        return vit.downloaded(self._name)


def architecture_of(encoder: PretrainedOptions) -> Architecture:
    """The network that the weights of `encoder` must fit."""
    if isinstance(encoder, ViT):
        return ViTOfTimm(encoder)
    assert isinstance(encoder, ResNetOptions)
    return ResNetOfTorchvision(encoder)
