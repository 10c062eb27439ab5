"""Weights that image encoders start from (`pretrained`): ResNets of torchvision and vision transformers of timm, from a
file or through these libraries."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.config.encoders import PretrainedOptions
from raybc.files import expanded
from raybc.policies.encoders.resnet import PackedResNet
from raybc.policies.encoders.vit import PackedViT
from raybc.train.architectures import Architecture, architecture_of
from raybc.types import UserError

#: Names that a message lists.
LISTED = 3


@dataclass(frozen=True)
class Pretrained:
    """Weights of a network without its last layer."""

    source: str
    """The file, imagenet or timm."""
    weights: Mapping[str, Tensor]
    """Name in torchvision or timm -> weight."""

    @property
    def sha256(self) -> str:
        """Of names, shapes and float32 values, so the same for all kinds of files."""
        found = hashlib.sha256()
        for name, weight in sorted(self.weights.items()):
            found.update(f"{name} {list(weight.shape)} ".encode())
            found.update(weight.contiguous().numpy().tobytes())
        return found.hexdigest()


def with_pretrained(config: RunConfig, resumes: bool = False) -> RunConfig:
    """`config` with the sha256 of the weights that `pretrained` names.

    resumes: whether a saved run may be continued, which needs no file: what is missing is then no error, and the sha256
    stays empty. It also stays as it is if the options have it and the file is missing. Raises `UserError` for weights
    of another network, or of another sha256 than the options require.
    """
    encoder = config.encoder
    if not isinstance(encoder, PretrainedOptions) or not encoder.is_pretrained:
        return config
    if (resumes or encoder.pretrained_sha256) and not is_at_hand(encoder):
        return config
    found = _checked(encoder).sha256
    return dataclasses.replace(config, encoder=dataclasses.replace(encoder, pretrained_sha256=found))


def continued(config: RunConfig, saved: RunConfig) -> RunConfig:
    """`config` with the sha256 of the run that it continues, if its file of weights is missing by now."""
    encoder, before = config.encoder, saved.encoder
    if not isinstance(encoder, PretrainedOptions) or not isinstance(before, PretrainedOptions):
        return config
    if not encoder.is_pretrained or encoder.pretrained_sha256 or encoder.pretrained != before.pretrained:
        return config
    return dataclasses.replace(config, encoder=dataclasses.replace(encoder, pretrained_sha256=before.pretrained_sha256))


def is_at_hand(encoder: PretrainedOptions) -> bool:
    """Whether the weights can be read without a network: the file is there."""
    return encoder.pretrained != encoder.download and expanded(encoder.pretrained, "pretrained").is_file()


def check_images(config: RunConfig, images: Mapping[str, tuple[int, int, int]]) -> None:
    """Raise `UserError` for images of a size that the encoder cannot see, or that weights for colours do not fit.

    images: name -> (height, width, channels).
    """
    encoder = config.encoder
    encoder.check_sizes(images)
    if not isinstance(encoder, PretrainedOptions) or not encoder.is_pretrained:
        return
    for name, (_, _, channels) in images.items():
        if channels != 3:
            raise UserError(
                f"pretrained: {name}: expected images of 3 channels, as the weights have seen, got {channels}; use "
                "--pretrained=none"
            )


def load_pretrained(config: RunConfig, module: nn.Module) -> str:
    """Copy the weights that `pretrained` names into all encoders of a module that may start from some, into every
    member.

    Returns a line that says what was loaded; empty if no weights are named. Raises `UserError` as `with_pretrained`.
    """
    encoder = config.encoder
    if not isinstance(encoder, PretrainedOptions) or not encoder.is_pretrained:
        return ""
    found = _checked(encoder)
    left: tuple[str, ...] = ()
    networks = [part for part in module.modules() if isinstance(part, PackedResNet | PackedViT)]
    for network in networks:
        left = network.load_backbone(found.weights)
    where = f"each of {len(networks)} encoders" if len(networks) > 1 else "the encoder"
    text = f"pretrained: {len(found.weights) - len(left)} weights from {found.source} in {where}"
    return text + (f"; {len(left)} running averages are not used with image_norm group" if left else "")


def _checked(encoder: PretrainedOptions) -> Pretrained:
    """The weights, of the right network and the required sha256."""
    network = architecture_of(encoder)
    if encoder.pretrained == encoder.download:
        found = _relevant(encoder.download, _downloaded(dataclasses.replace(encoder, pretrained_sha256="")), network)
    else:
        path = expanded(encoder.pretrained, "pretrained")
        if not path.is_file():
            raise UserError(
                f"pretrained: {path}: expected a file of weights (safetensors or .pth), found none; {network.usual}"
            )
        found = _relevant(str(path), _from_file(path, path.stat().st_mtime_ns), network)
    _check_network(found, network)
    if encoder.pretrained_sha256 not in ("", found.sha256):
        raise UserError(
            f"pretrained: {found.source}: expected the weights {encoder.pretrained_sha256}, got {found.sha256}: they "
            "have changed since training started"
        )
    return found


@functools.lru_cache(maxsize=1)
def _from_file(path: Path, modified: int) -> object:
    """modified: time of the file, so that a file that has changed is read again."""
    with path.open("rb") as handle:
        is_safetensors = handle.read(9)[8:] == b"{"  # after the length of the header
    try:
        if is_safetensors:
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # also what weights_only refuses
        raise UserError(
            f"pretrained: {path}: expected tensors by name, as torch.save(model.state_dict(), FILE) writes them, got a "
            "file with other objects, which are not read because they could run code"
        ) from None
    except Exception as error:  # whatever the two libraries raise for a damaged file
        raise UserError(
            f"pretrained: {path}: expected a file of weights (safetensors or .pth), which cannot be read: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from None


@functools.lru_cache(maxsize=1)
def _downloaded(encoder: PretrainedOptions) -> object:
    network = architecture_of(encoder)
    try:
        return network.download()
    except UserError:
        raise
    except Exception as error:  # no network, a proxy, a broken download
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"pretrained: {encoder.download}: {network.library} could not load the weights ({reason}); download "
            f"{network.url} where there is a network, and name the file: --pretrained=FILE"
        ) from None


def _relevant(source: str, found: object, network: Architecture) -> Pretrained:
    """Without the last layer and the counters of BatchNorm, in float32."""
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        inside = ", ".join(map(str, list(found)[:LISTED])) if isinstance(found, Mapping) else type(found).__name__
        raise UserError(f"pretrained: {source}: expected tensors by name (a state_dict), got {inside or 'nothing'}")
    weights = {str(name): value.detach().float() for name, value in found.items() if network.is_backbone(str(name))}
    return Pretrained(source, weights)


def _check_network(found: Pretrained, network: Architecture) -> None:
    got = {name: tuple(weight.shape) for name, weight in found.weights.items()}
    expected = network.expected(got)
    if got == expected:
        return
    missing = [name for name in expected if name not in got]
    unexpected = [name for name in got if name not in expected]
    other = [
        f"{name} ({list(got[name])} instead of {list(expected[name])})"
        for name in expected
        if name in got and got[name] != expected[name]
    ]
    what = [
        f"{len(names)} {text}: {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}"
        for text, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if names
    ]
    advice = network.advice(got)
    raise UserError(
        f"pretrained: {found.source}: expected the weights of {network.title}, got others ({'; '.join(what)})"
        f"{'; ' if advice else ''}{advice}"
    )
