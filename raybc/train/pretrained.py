"""Weights that image encoders start from (`pretrained`): torchvision's ResNets, from a file or through torchvision."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.config.encoders import ResNetOptions
from raybc.files import expanded
from raybc.policies.encoders.resnet import BLOCKS, PackedResNet, torchvision_shapes
from raybc.types import UserError

#: Value of `pretrained` that has torchvision download the weights.
IMAGENET = "imagenet"
#: Where torchvision's weights of ImageNet are, by the kind of encoder.
URLS = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
}
#: Names that a message lists.
LISTED = 3


@dataclass(frozen=True)
class Pretrained:
    """Weights of a ResNet without its last layer."""

    source: str
    """The file, or imagenet."""
    weights: Mapping[str, Tensor]
    """torchvision's name -> weight."""

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
    if not isinstance(encoder, ResNetOptions) or not encoder.is_pretrained:
        return config
    if (resumes or encoder.pretrained_sha256) and not is_at_hand(encoder):
        return config
    found = _checked(encoder).sha256
    return dataclasses.replace(config, encoder=dataclasses.replace(encoder, pretrained_sha256=found))


def continued(config: RunConfig, saved: RunConfig) -> RunConfig:
    """`config` with the sha256 of the run that it continues, if its file of weights is missing by now."""
    encoder, before = config.encoder, saved.encoder
    if not isinstance(encoder, ResNetOptions) or not isinstance(before, ResNetOptions) or not encoder.is_pretrained:
        return config
    if encoder.pretrained_sha256 or encoder.pretrained != before.pretrained:
        return config
    return dataclasses.replace(config, encoder=dataclasses.replace(encoder, pretrained_sha256=before.pretrained_sha256))


def is_at_hand(encoder: ResNetOptions) -> bool:
    """Whether the weights can be read without a network: the file is there."""
    return encoder.pretrained != IMAGENET and expanded(encoder.pretrained, "pretrained").is_file()


def check_channels(config: RunConfig, images: Mapping[str, tuple[int, int, int]]) -> None:
    """Raise `UserError` for images that weights for colours do not fit. images: name -> (height, width, channels)."""
    encoder = config.encoder
    if not isinstance(encoder, ResNetOptions) or not encoder.is_pretrained:
        return
    for name, (_, _, channels) in images.items():
        if channels != 3:
            raise UserError(
                f"pretrained: {name}: expected images of 3 channels, as the weights have seen, got {channels}; use "
                "--pretrained=none"
            )


def load_pretrained(config: RunConfig, module: nn.Module) -> str:
    """Copy the weights that `pretrained` names into all ResNets of a module, into every member.

    Returns a line that says what was loaded; empty if no weights are named. Raises `UserError` as `with_pretrained`.
    """
    encoder = config.encoder
    if not isinstance(encoder, ResNetOptions) or not encoder.is_pretrained:
        return ""
    found = _checked(encoder)
    left: tuple[str, ...] = ()
    networks = [part for part in module.modules() if isinstance(part, PackedResNet)]
    for network in networks:
        left = network.load_backbone(found.weights)
    where = f"each of {len(networks)} encoders" if len(networks) > 1 else "the encoder"
    text = f"pretrained: {len(found.weights) - len(left)} weights from {found.source} in {where}"
    return text + (f"; {len(left)} running averages are not used with image_norm group" if left else "")


def _checked(encoder: ResNetOptions) -> Pretrained:
    """The weights, of the right network and the required sha256."""
    if encoder.pretrained == IMAGENET:
        found = _from_torchvision(encoder.kind)
    else:
        path = expanded(encoder.pretrained, "pretrained")
        if not path.is_file():
            raise UserError(
                f"pretrained: {path}: expected a file of weights (safetensors or .pth), found none; those of ImageNet "
                f"are at {URLS.get(encoder.kind, URLS['resnet18'])}, or torchvision.models.{encoder.kind}(weights="
                "'IMAGENET1K_V1').state_dict(), saved with safetensors"
            )
        found = _from_file(path, path.stat().st_mtime_ns)
    _check_network(found, encoder)
    if encoder.pretrained_sha256 not in ("", found.sha256):
        raise UserError(
            f"pretrained: {found.source}: expected the weights {encoder.pretrained_sha256}, got {found.sha256}: they "
            "have changed since training started"
        )
    return found


@functools.lru_cache(maxsize=1)
def _from_file(path: Path, modified: int) -> Pretrained:
    """modified: time of the file, so that a file that has changed is read again."""
    with path.open("rb") as handle:
        is_safetensors = handle.read(9)[8:] == b"{"  # after the length of the header
    try:
        if is_safetensors:
            from safetensors.torch import load_file

            return _relevant(str(path), load_file(path))
        return _relevant(str(path), torch.load(path, map_location="cpu", weights_only=True))
    except UserError:
        raise
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


def _from_torchvision(kind: str) -> Pretrained:
    where = URLS.get(kind, URLS["resnet18"])
    advice = f"download {where} where there is a network, and name the file: --pretrained=FILE"
    try:
        models = importlib.import_module("torchvision.models")
    except Exception as error:  # also what an incompatible torchvision raises
        raise UserError(f"pretrained: imagenet needs the package torchvision ({error}); {advice}") from None
    try:
        weights = next(iter(models.get_model_weights(kind))).get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # no network, a proxy, a broken download
        raise UserError(f"pretrained: imagenet: torchvision could not load the weights ({error}); {advice}") from None
    return _relevant(IMAGENET, weights)


def _relevant(source: str, found: object) -> Pretrained:
    """Without the last layer and the counters of BatchNorm, in float32."""
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        inside = ", ".join(map(str, list(found)[:LISTED])) if isinstance(found, Mapping) else type(found).__name__
        raise UserError(f"pretrained: {source}: expected tensors by name (a state_dict), got {inside or 'nothing'}")
    return Pretrained(
        source,
        {
            str(name): value.detach().float()
            for name, value in found.items()
            if not str(name).startswith("fc.") and not str(name).endswith("num_batches_tracked")
        },
    )


def _check_network(found: Pretrained, encoder: ResNetOptions) -> None:
    expected, got = torchvision_shapes(encoder.kind), {n: tuple(w.shape) for n, w in found.weights.items()}
    if encoder.image_norm == "group":  # weights of a network with GroupNorm have none
        expected = {name: shape for name, shape in expected.items() if "running_" not in name or name in got}
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
    fitting = [kind for kind in BLOCKS if torchvision_shapes(kind) == got]
    hint = f"; they fit --encoder={fitting[0]}" if fitting else ""
    raise UserError(
        f"pretrained: {found.source}: expected the weights of {encoder.kind} with image_norm {encoder.image_norm}, got "
        f"others ({'; '.join(what)}){hint}"
    )
