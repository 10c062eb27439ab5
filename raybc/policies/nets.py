"""Networks for a pack of members: every parameter carries a leading member axis M.

Letters: M members, B batch, I input features, O output features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """M linear layers side by side: y_MBO = x_MBI @ weights_MIO + bias_M1O, one batched product."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weights_MIO = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias_M1O = nn.Parameter(torch.empty(members, 1, outputs))

    def init_member(self, m: int, generator: torch.Generator) -> None:
        """Lecun-normal weights, zero bias; drawn from the member's own generator, whatever the size of the pack."""
        inputs, outputs = self.weights_MIO.shape[1:]
        with torch.no_grad():
            self.weights_MIO[m] = torch.randn(inputs, outputs, generator=generator) / math.sqrt(inputs)
            self.bias_M1O[m] = 0.0

    def forward(self, x_MBI: Tensor) -> Tensor:
        return torch.baddbmm(self.bias_M1O, x_MBI, self.weights_MIO)


class PackedMLP(nn.Module):
    """`depth` hidden layers of `width` GELU units, for M members at once."""

    def __init__(self, members: int, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth, outputs]
        self.layers = nn.ModuleList(PackedLinear(members, i, o) for i, o in itertools.pairwise(sizes))

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        for m, generator in enumerate(generators):
            for layer in self.layers:
                assert isinstance(layer, PackedLinear)
                layer.init_member(m, generator)

    def forward(self, x_MBI: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x_MBI = nn.functional.gelu(layer(x_MBI), approximate="tanh")
        return self.layers[-1](x_MBI)


def fourier_features(t: Tensor, frequencies: int) -> Tensor:
    """Features of the flow time: (..., 1) -> (..., 2 * frequencies), cos and sin of 2^k pi t for k = 0, 1, ...

    Fixed, not learned (Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions").
    """
    angles = t * (math.pi * 2.0 ** torch.arange(frequencies, device=t.device, dtype=t.dtype))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
