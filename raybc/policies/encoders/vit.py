"""Vision transformers (Dosovitskiy et al. 2021) of the package timm as encoders of images, with timm's names.

timm makes the network for the size of the images, and pools its tokens as the model does: the class token, the average
or attention. Images become 0 to 1, and are normalised with the model's own mean and spread. The network is always in
evaluation mode, without dropout and stochastic depth, so that training draws no random numbers here.

The network is an ordinary module; a `PackedModule` runs one copy for each member, one after another.
Letters: N images, C channels, F features, M members, B batch.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raybc.extras import require_extra
from raybc.policies.base import Encoder
from raybc.policies.packed import PackedModule
from raybc.strict import did_you_mean
from raybc.types import UserError

#: Modules of timm with plain vision transformers, which can be made for any image that patches cover.
MODULES = ("vision_transformer", "deit", "eva")
#: The embedding of the positions of patches, which depends on the size of the images.
POSITIONS = "pos_embed"
#: Colours that the weights of timm have seen.
COLOURS = 3


@dataclass(frozen=True)
class Model:
    """What is known of a model before it is made for images of some size."""

    patch: tuple[int, int]
    """Height and width of a patch, in pixels."""
    grid: tuple[int, int]
    """Rows and columns of patches of the images that its weights have seen."""
    prefix: int
    """Embeddings of positions that are not those of patches, such as that of the class token."""
    mean: tuple[float, ...]
    """Of each colour, 0 to 1."""
    spread: tuple[float, ...]
    """Standard deviation of each colour."""
    heads: tuple[str, ...]
    """Names of its last layers, which classify and are no part of an encoder."""
    shapes: Mapping[str, tuple[int, ...]]
    """timm's name -> shape of each weight, without the last layers."""
    features: int
    """F."""
    url: str
    """Where its weights can be had."""


def library() -> Any:
    """The module timm. Raises `UserError`, with the line that installs it, if it is missing or cannot be imported."""
    try:
        return require_extra("--encoder=vit", "vit", "timm")[0]
    except UserError:
        raise
    except Exception as error:  # torchvision, which timm imports, raises various ones where it does not fit PyTorch
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        index = "" if torch.version.cuda else " --index-url https://download.pytorch.org/whl/cpu"
        cause = "" if torch.version.cuda else " (torchvision from PyPI is built for PyTorch with CUDA)"
        raise UserError(
            f"--encoder=vit: timm cannot be imported: {reason}; expected a torchvision that was built for PyTorch "
            f"{torch.__version__}{cause}: pip install --force-reinstall torch torchvision{index}"
        ) from None


@functools.cache
def model_of(name: str) -> Model:
    """The model that timm calls `name`, MODEL or MODEL.TAG. Raises `UserError`, with similar names, for others."""
    timm = library()
    known = [model for module in MODULES for model in timm.list_models(module=module)]
    base, _, tag = name.partition(".")
    if base not in known:
        raise UserError(
            f"--vit_model: expected a vision transformer of timm, got {name!r}; {did_you_mean(base, known)}"
        )
    tags = timm.list_pretrained(f"{base}.*")
    if tag and name not in tags:
        raise UserError(f"--vit_model: {base}: there are no weights {tag!r} in timm; {did_you_mean(name, tags)}")
    try:
        with torch.device("meta"):
            network = _network(name)
    except Exception as error:  # an old timm needs the values of tensors to make a network
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--vit_model: timm {timm.__version__} cannot make {name} without its weights: {reason}; install a newer "
            "one: pip install -U 'raybc[vit]'"
        ) from None
    facts, positions = network.pretrained_cfg, network.state_dict().get(POSITIONS)
    grid = tuple(network.patch_embed.grid_size)
    heads, hub = facts["classifier"], facts.get("hf_hub_id")
    return Model(
        patch=tuple(network.patch_embed.patch_size),
        grid=grid,
        prefix=0 if positions is None else positions.shape[1] - math.prod(grid),
        mean=tuple(facts["mean"]),
        spread=tuple(facts["std"]),
        heads=(heads,) if isinstance(heads, str) else tuple(heads or ()),
        shapes={name: tuple(value.shape) for name, value in network.state_dict().items()},
        features=int(network.num_features),
        url=f"https://huggingface.co/{hub}/resolve/main/model.safetensors" if hub else facts.get("url") or "unknown",
    )


def _network(name: str, size: tuple[int, int] | None = None, channels: int = COLOURS, pretrained: bool = False) -> Any:
    """The model without its last layer, in evaluation mode. size: (height, width); None: that of its weights."""
    network = library().create_model(name, pretrained=pretrained, num_classes=0, img_size=size, in_chans=channels)
    return network.eval()


def downloaded(name: str) -> Mapping[str, Tensor]:
    """The weights that timm downloads for a model, by name. Raises whatever timm raises."""
    return dict(_network(name, pretrained=True).state_dict())


def check_size(name: str, size: tuple[int, int], what: str) -> None:
    """Raise `UserError` unless patches of the model `name` cover images of `size`, (height, width).

    what: what has this size, for the message.
    """
    patch = model_of(name).patch
    if size[0] % patch[0] == 0 and size[1] % patch[1] == 0:
        return
    below = [max(s // p, 1) * p for s, p in zip(size, patch, strict=True)]
    above = [math.ceil(s / p) * p for s, p in zip(size, patch, strict=True)]
    near = " and ".join(dict.fromkeys(f"{height},{width}" for height, width in (below, above)))
    raise UserError(
        f"{what}: expected a height and a width that are multiples of {patch[0]} and {patch[1]}, the patch of {name}, "
        f"got {size[0]},{size[1]}; the nearest are {near} (--image_crop cuts images to such a size)"
    )


class ViTEncoder(nn.Module):
    """uint8 images (N, height, width, C) -> features (N, F)."""

    mean: Tensor
    """Of each channel, (C, 1, 1), for images of 0 to 1."""
    spread: Tensor
    """Standard deviation of each channel, (C, 1, 1)."""

    def __init__(self, name: str, image: tuple[int, int, int]) -> None:
        """
        Args:
            name: MODEL or MODEL.TAG of timm.
            image: (height, width, C); 3 channels are colours, others are normalised with the mean over colours.
        """
        super().__init__()
        height, width, channels = image
        self.backbone = _network(name, (height, width), channels)
        mean, spread = torch.tensor(model_of(name).mean), torch.tensor(model_of(name).spread)
        if channels != COLOURS:
            mean, spread = mean.mean().expand(channels), spread.mean().expand(channels)
        # Saved with the weights, because another release of timm may have other ones for this name.
        self.register_buffer("mean", mean.clone().view(-1, 1, 1))
        self.register_buffer("spread", spread.clone().view(-1, 1, 1))

    def forward(self, images_NHWC: Tensor) -> Tensor:
        x = images_NHWC.permute(0, 3, 1, 2).float() / 255
        features: Tensor = self.backbone((x - self.mean) / self.spread)
        return features


class PackedViT(Encoder):
    """M encoders of images of one kind."""

    by_step = True

    def __init__(self, members: int, image: tuple[int, int, int], name: str) -> None:
        """See `ViTEncoder`. members: M."""
        super().__init__()
        self._model, self._size = model_of(name), image[:2]
        self.features = self._model.features
        self.network = PackedModule(lambda: ViTEncoder(name, image), members, buffers=True)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        self.network.init_members(generators)

    @torch.no_grad()
    def load_backbone(self, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Copy weights into the backbone of every member. The embeddings of positions are resampled, by timm, for the
        size of the images here.

        weights: timm's name -> weight of one network, of the shapes of `Model.shapes` but for the number of positions.
        Returns the names of those that the backbone does not have: none.
        """
        for name, weight in weights.items():
            own = getattr(self.network, f"backbone.{name}".replace(".", "__"))
            own.copy_((self._resampled(weight) if name == POSITIONS else weight).expand_as(own))
        return ()

    def _resampled(self, positions: Tensor) -> Tensor:
        """(1, positions, width) for the grid of the weights -> for the grid of the images here."""
        model = self._model
        old = grid_of(positions.shape[1] - model.prefix, model)
        new = [size // patch for size, patch in zip(self._size, model.patch, strict=True)]
        resample = importlib.import_module("timm.layers").resample_abs_pos_embed
        found: Tensor = resample(positions, new_size=new, old_size=old, num_prefix_tokens=model.prefix)
        return found

    def forward(self, images_MBTHWC: Tensor) -> Tensor:
        """uint8 (M, B, 1, height, width, C) -> features (M, B, F)."""
        return self.network(images_MBTHWC.squeeze(2))


def grid_of(patches: int, model: Model) -> list[int] | None:
    """Rows and columns of the patches that weights have seen: those of the model, or a square; None where the number
    is neither."""
    if patches == math.prod(model.grid):
        return list(model.grid)
    side = math.isqrt(max(patches, 0))
    return [side, side] if side and side**2 == patches else None


def build(config: Any, image: tuple[int, int, int], members: int) -> PackedViT:
    """Builder of the encoder `vit`. config: a `ViT`. image: (height, width, channels) of one step."""
    check_size(config.vit_model, image[:2], "--encoder=vit: images")
    return PackedViT(members, image, config.vit_model)
