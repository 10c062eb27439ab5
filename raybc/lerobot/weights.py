"""Names and layouts of the weights of LeRobot's diffusion policy, and ours, in both directions.

The two networks compute the same; what differs is the order of axes, that our scales and shifts of all blocks are one
linear map, that a transposed convolution is two interleaved ones here, and the order of the numbers that condition the
network. Letters: M members (1), I inputs, O outputs, K kernel, P parity, F features of an observation, E time
embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raybc.lerobot.layout import Layout
from raybc.types import UserError

#: LeRobot's place of a part of a ResNet in its sequence -> torchvision's name, which is ours.
_PARTS = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
UNET, ENCODER = "diffusion.unet.", "diffusion.rgb_encoder."


@dataclass(frozen=True)
class Pair:
    """A weight of both."""

    theirs: str
    ours: str
    into: Callable[[Tensor], Tensor]
    """LeRobot's tensor -> ours."""
    back: Callable[[Tensor], Tensor]


def _conv(theirs: str, ours: str) -> Iterator[Pair]:
    """(O, I, K) and (1, O, K, I)."""
    yield Pair(theirs + ".weight", ours + ".weights_MOKI", lambda w: w.permute(0, 2, 1)[None], lambda w: w[0].mT)
    yield Pair(theirs + ".bias", ours + ".bias_MO", lambda b: b[None], lambda b: b[0])


def _linear(theirs: str, ours: str, pointwise: bool = False) -> Iterator[Pair]:
    """(O, I), or (O, I, 1) where it is a convolution of kernel 1, and (1, I, O)."""

    def into(w: Tensor) -> Tensor:
        return (w.squeeze(2) if pointwise else w).mT[None]

    def back(w: Tensor) -> Tensor:
        return w[0].mT.unsqueeze(2) if pointwise else w[0].mT

    yield Pair(theirs + ".weight", ours + ".weights_MIO", into, back)
    yield Pair(theirs + ".bias", ours + ".bias_M1O", lambda b: b[None, None], lambda b: b[0, 0])


def _upsample(theirs: str, ours: str) -> Iterator[Pair]:
    """(I, O, 4) and (1, 2, O, 2, I): see `PackedUpsample`."""

    def into(w: Tensor) -> Tensor:
        w0, w1, w2, w3 = (w[:, :, k].mT for k in range(4))
        return torch.stack([torch.stack([w2, w0], 1), torch.stack([w3, w1], 1)])[None]

    def back(w: Tensor) -> Tensor:
        (w2, w0), (w3, w1) = (parity.unbind(1) for parity in w[0])
        return torch.stack([w0.mT, w1.mT, w2.mT, w3.mT], 2)

    yield Pair(theirs + ".weight", ours + ".weights_MPOKI", into, back)
    yield Pair(theirs + ".bias", ours + ".bias_MO", lambda b: b[None], lambda b: b[0])


def _block(theirs: str, ours: str) -> Iterator[Pair]:
    """Convolution and GroupNorm."""
    yield from _conv(theirs + ".block.0", ours + ".conv")
    for name, own in (("weight", "gain_M11O"), ("bias", "bias_M11O")):
        yield Pair(f"{theirs}.block.1.{name}", f"{ours}.{own}", lambda w: w[None, None, None], lambda w: w[0, 0, 0])


def _residuals(levels: int) -> list[tuple[str, str]]:
    """LeRobot's and our name of each residual block, in the order of our scales and shifts."""
    down = [(f"down_modules.{n}.{i}", f"down.{2 * n + i}") for n in range(levels) for i in range(2)]
    middle = [(f"mid_modules.{i}", f"middle.{i}") for i in range(2)]
    up = [(f"up_modules.{n}.{i}", f"up.{2 * n + i}") for n in range(levels - 1) for i in range(2)]
    return [*down, *middle, *up]


def _sizes(channels: Sequence[int], action_size: int) -> list[tuple[int, int]]:
    """Input and output channels of each residual block, in the same order."""
    levels = list(itertools.pairwise([action_size, *channels]))
    down = [pair for i, o in levels for pair in ((i, o), (o, o))]
    up = [pair for i, o in reversed(levels[1:]) for pair in ((2 * o, i), (i, i))]
    return [*down, (channels[-1],) * 2, (channels[-1],) * 2, *up]


def _unet_pairs(channels: Sequence[int], action_size: int) -> Iterator[Pair]:
    """All weights of the U-Net but those of scales and shifts."""
    levels = len(channels)
    for theirs, ours in (("diffusion_step_encoder.1", "time_in"), ("diffusion_step_encoder.3", "time_out")):
        yield from _linear(theirs, ours)
    for (theirs, ours), (inputs, outputs) in zip(_residuals(levels), _sizes(channels, action_size), strict=True):
        yield from _block(theirs + ".conv1", ours + ".first")
        yield from _block(theirs + ".conv2", ours + ".second")
        if inputs != outputs:
            yield from _linear(theirs + ".residual_conv", ours + ".skip", pointwise=True)
    for n in range(levels - 1):
        yield from _conv(f"down_modules.{n}.2", f"shrink.{n}")
        yield from _upsample(f"up_modules.{n}.2", f"grow.{n}")
    yield from _block("final_conv.0", "last")
    yield from _linear("final_conv.1", "out", pointwise=True)


@dataclass(frozen=True)
class Shapes:
    """What decides the names and sizes of weights."""

    channels: tuple[int, ...]
    """Of each level of the U-Net."""
    action_size: int
    time_size: int
    """E."""
    obs_size: int
    """O."""
    obs_steps: int
    """T."""
    keypoints: int = 0
    """Of the spatial softmax; 0 without images."""
    separate: bool = False
    """Whether each camera has an encoder of its own."""


def to_ours(theirs: Mapping[str, Tensor], shapes: Shapes, layout: Layout) -> dict[str, Tensor]:
    """Our weights of a pack of one member. Raises `UserError` for a weight that is missing or of another shape."""
    found = _Reader(theirs)
    ours = {
        f"velocity_field.{pair.ours}": pair.into(found.take(UNET + pair.theirs))
        for pair in _unet_pairs(shapes.channels, shapes.action_size)
    }
    time, seen, biases = [], [], []
    columns = torch.from_numpy(layout.columns(shapes.obs_size, shapes.obs_steps, 2 * shapes.keypoints))
    for name, own in _residuals(len(shapes.channels)):
        weight, bias = (found.take(f"{UNET}{name}.cond_encoder.1.{part}") for part in ("weight", "bias"))
        outputs = ours[f"velocity_field.{own}.first.conv.bias_MO"].shape[1]
        if weight.shape[1] != shapes.time_size + len(columns):
            expected = f"(..., {shapes.time_size + len(columns)})"
            raise UserError(f"{UNET}{name}.cond_encoder.1.weight: expected {expected}, got {tuple(weight.shape)}")
        if len(bias) == outputs:  # shifts alone: all scales are 1
            weight = torch.cat([torch.zeros_like(weight), weight])
            bias = torch.cat([torch.ones_like(bias), bias])
        time.append(weight[:, : shapes.time_size].mT)
        in_our_order = torch.empty_like(weight[:, shapes.time_size :])
        in_our_order[:, columns] = weight[:, shapes.time_size :]
        seen.append(in_our_order.mT)
        biases.append(bias)
    ours["velocity_field.film_time_MES"] = torch.cat(time, 1)[None]
    ours["velocity_field.film_obs.weights_MIO"] = torch.cat(seen, 1)[None]
    ours["velocity_field.film_obs.bias_M1O"] = torch.cat(biases)[None, None]
    for name, own in _encoders(layout, shapes):
        found.take(f"{name}pool.pos_grid", needed=False)  # coordinates, which are computed
        for key in [key for key in theirs if key.startswith(name) and not key.endswith("pool.pos_grid")]:
            if not key.endswith("num_batches_tracked"):
                ours[own + _own_encoder_name(key.removeprefix(name))] = _image_in(key, found.take(key))[None]
            else:
                found.take(key)
    found.finish()
    return {name: tensor.float().contiguous() for name, tensor in ours.items()}


def to_theirs(
    ours: Mapping[str, Tensor], shapes: Shapes, layout: Layout, maps: Mapping[str, tuple[int, int]]
) -> dict[str, Tensor]:
    """LeRobot's weights.

    maps: image of LeRobot's -> height and width of its feature maps, whose coordinates LeRobot saves with the weights.
    """
    field = {name.removeprefix("velocity_field."): value for name, value in ours.items()}
    pairs = _unet_pairs(shapes.channels, shapes.action_size)
    theirs = {UNET + pair.theirs: pair.back(field[pair.ours]) for pair in pairs}
    columns = torch.from_numpy(layout.columns(shapes.obs_size, shapes.obs_steps, 2 * shapes.keypoints))
    time, seen, bias = field["film_time_MES"][0], field["film_obs.weights_MIO"][0], field["film_obs.bias_M1O"][0, 0]
    end = 0
    for name, own in _residuals(len(shapes.channels)):
        part = slice(end, end := end + 2 * field[f"{own}.first.conv.bias_MO"].shape[1])
        weight = torch.cat([time[:, part].mT, seen[:, part].mT[:, columns]], 1)
        theirs[f"{UNET}{name}.cond_encoder.1.weight"] = weight
        theirs[f"{UNET}{name}.cond_encoder.1.bias"] = bias[part]
    for number, (name, own) in enumerate(_encoders(layout, shapes)):
        for key, value in ours.items():
            if key.startswith(own):
                theirs_key = name + _their_encoder_name(key.removeprefix(own))
                theirs[theirs_key] = _image_back(theirs_key, value[0])
        height, width = list(maps.values())[number]
        x, y = np.meshgrid(np.linspace(-1.0, 1.0, width), np.linspace(-1.0, 1.0, height))
        theirs[f"{name}pool.pos_grid"] = torch.from_numpy(np.stack([x.ravel(), y.ravel()], 1)).float()
    return {name: tensor.float().contiguous() for name, tensor in theirs.items()}


def _encoders(layout: Layout, shapes: Shapes) -> list[tuple[str, str]]:
    """LeRobot's and our beginning of the names of each encoder of images."""
    names = list(layout.images.values())
    if not names:
        return []
    if shapes.separate:
        return [(f"{ENCODER}{n}.", _own_encoder(name)) for n, name in enumerate(names)]
    return [(ENCODER, _own_encoder(names[0] if len(names) == 1 else "shared"))]


def _own_encoder(name: str) -> str:
    return f"encoders.{name.replace('.', '_')}.network."


def _own_encoder_name(name: str) -> str:
    """`backbone.4.0.conv1.weight` -> `backbone__layer1__0__conv1__weight`."""
    part, _, rest = name.partition(".")
    if part == "backbone":
        place, _, inner = rest.partition(".")
        if not place.isdigit() or int(place) not in _PARTS:
            raise UserError(f"{ENCODER}{name}: expected a part of a ResNet")
        rest = f"backbone.{_PARTS[int(place)]}.{inner}"
    elif part == "pool":
        rest = rest.replace("nets.", "pool.maps.")
    else:
        rest = f"head.0.{rest}"
    return rest.replace(".", "__")


def _their_encoder_name(name: str) -> str:
    first, rest = name.replace("__", ".").split(".", 1)
    if first == "backbone":
        part, _, inner = rest.partition(".")
        return f"backbone.{next(place for place, own in _PARTS.items() if own == part)}.{inner}"
    return f"pool.nets.{rest.removeprefix('maps.')}" if first == "pool" else f"out.{rest.removeprefix('0.')}"


def _image_in(key: str, value: Tensor) -> Tensor:
    """LeRobot's keypoints are x, y, x, y, ..., ours all x and then all y."""
    if key.endswith("out.weight"):
        return torch.cat([value[:, 0::2], value[:, 1::2]], 1)
    return value


def _image_back(key: str, value: Tensor) -> Tensor:
    if key.endswith("out.weight"):
        return torch.stack(value.chunk(2, 1), 2).flatten(1)
    return value


class _Reader:
    """Takes weights by name and says which are missing or left."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights, self._taken = weights, set[str]()

    def take(self, name: str, needed: bool = True) -> Tensor:
        if name not in self._weights and needed:
            raise UserError(f"expected the weight {name}, which is missing")
        self._taken.add(name)
        return self._weights.get(name, torch.empty(0))

    def finish(self) -> None:
        left = sorted(self._weights.keys() - self._taken)
        if left:
            raise UserError(f"{left[0]}: unknown weight, one of {len(left)} that the configuration has no place for")
