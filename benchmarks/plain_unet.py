"""The conditional 1-D U-Net as one writes it with torch.nn: one member, channels first, eager.

What `raybc.policies.fields.unet1d` is compared with, in benchmarks and in tests (`copy_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raybc.policies.fields.time import TIME_SCALE
from raybc.policies.fields.unet1d import UNetField


class PlainBlock(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__(
            nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2), nn.GroupNorm(groups, outputs), nn.Mish()
        )


class PlainResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = PlainBlock(inputs, outputs, kernel, groups)
        self.second = PlainBlock(outputs, outputs, kernel, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * outputs))
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, bias = self.film(condition)[..., None].chunk(2, dim=1)
        out: Tensor = self.second(scale * self.first(x) + bias) + self.skip(x)
        return out


class PlainTime(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, t: Tensor) -> Tensor:
        half = self.size // 2
        steps = torch.arange(half, dtype=t.dtype)
        angles = TIME_SCALE * t[:, None] * torch.exp(-steps * (math.log(10000) / (half - 1)))
        return torch.cat([angles.sin(), angles.cos()], -1)


class PlainUNet(nn.Module):
    def __init__(
        self,
        actions: int,
        features: int,
        channels: Sequence[int],
        kernel: int = 5,
        groups: int = 8,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.time = nn.Sequential(
            PlainTime(embedding), nn.Linear(embedding, 4 * embedding), nn.Mish(), nn.Linear(4 * embedding, embedding)
        )
        sizes = list(zip([actions, *channels[:-1]], channels, strict=True))

        def residual(inputs: int, outputs: int) -> PlainResidual:
            return PlainResidual(inputs, outputs, embedding + features, kernel, groups)

        self.down = nn.ModuleList()
        for n, (i, o) in enumerate(sizes):
            shrink = nn.Identity() if n == len(sizes) - 1 else nn.Conv1d(o, o, 3, 2, 1)
            self.down.append(nn.ModuleList([residual(i, o), residual(o, o), shrink]))
        self.middle = nn.ModuleList(residual(channels[-1], channels[-1]) for _ in range(2))
        self.up = nn.ModuleList(
            nn.ModuleList([residual(2 * o, i), residual(i, i), nn.ConvTranspose1d(i, i, 4, 2, 1)])
            for i, o in reversed(sizes[1:])
        )
        self.last = nn.Sequential(
            PlainBlock(channels[0], channels[0], kernel, groups), nn.Conv1d(channels[0], actions, 1)
        )

    def forward(self, x_BHA: Tensor, t_B: Tensor, features_BF: Tensor) -> Tensor:
        x = x_BHA.movedim(-1, -2)
        condition = torch.cat([self.time(t_B), features_BF], -1)
        skips = []
        for level in self.down:
            first, second, shrink = level  # type: ignore[misc]
            x = second(first(x, condition), condition)
            skips.append(x)
            x = shrink(x)
        for block in self.middle:
            x = block(x, condition)
        for level in self.up:
            first, second, grow = level  # type: ignore[misc]
            x = grow(second(first(torch.cat([x, skips.pop()], 1), condition), condition))
        out: Tensor = self.last(x).movedim(-1, -2)
        return out


@torch.no_grad()
def copy_weights(field: UNetField, m: int, plain: Any) -> None:
    """Make member m of a pack the plain network."""

    def conv(ours: Any, theirs: Any) -> None:
        ours.weights_MOKI[m], ours.bias_MO[m] = theirs.weight.permute(0, 2, 1), theirs.bias

    def linear(ours: Any, weight: Tensor, bias: Tensor) -> None:
        ours.weights_MIO[m], ours.bias_M1O[m, 0] = weight.T, bias

    def block(ours: Any, theirs: Any) -> None:
        conv(ours.conv, theirs[0])
        ours.gain_M11O[m, 0, 0], ours.bias_M11O[m, 0, 0] = theirs[1].weight, theirs[1].bias

    def residual(ours: Any, theirs: Any) -> None:
        block(ours.first, theirs.first)
        block(ours.second, theirs.second)
        if not isinstance(theirs.skip, nn.Identity):
            linear(ours.skip, theirs.skip.weight[:, :, 0], theirs.skip.bias)

    linear(field.time_in, plain.time[1].weight, plain.time[1].bias)
    linear(field.time_out, plain.time[3].weight, plain.time[3].bias)
    blocks = [part for level in plain.down for part in level[:2]]
    for ours, theirs in zip(field.down, blocks, strict=True):
        residual(ours, theirs)
    for ours, level in zip(field.shrink, plain.down, strict=False):
        conv(ours, level[2])
    for ours, theirs in zip(field.middle, plain.middle, strict=True):
        residual(ours, theirs)
    up = [part for level in plain.up for part in level[:2]]
    for ours, theirs in zip(field.up, up, strict=True):
        residual(ours, theirs)
    for grow, level in zip(field.grow, plain.up, strict=True):
        ours_any: Any = grow
        weight = level[2].weight  # (inputs, outputs, kernel 4)
        for parity, (before, here) in enumerate(((2, 0), (3, 1))):
            ours_any.weights_MPOKI[m, parity, :, 0] = weight[:, :, before].T
            ours_any.weights_MPOKI[m, parity, :, 1] = weight[:, :, here].T
        ours_any.bias_MO[m] = level[2].bias
    block(field.last, plain.last[0])
    linear(field.out, plain.last[1].weight[:, :, 0], plain.last[1].bias)
    films = [part.film[1] for part in (*blocks, *plain.middle, *up)]
    weights, bias = torch.cat([film.weight for film in films]).T, torch.cat([film.bias for film in films])
    field.film_time_MES[m] = weights[: field.time_size]
    linear(field.film_obs, weights[field.time_size :].T, bias)
