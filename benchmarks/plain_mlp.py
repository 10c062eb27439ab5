"""The multilayer perceptrons as one writes them with torch.nn: one member, everything computed at every evaluation.

What `raybc.policies.fields.mlp` is compared with, in benchmarks and in tests (`copy_weights`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raybc.policies.fields.mlp import MLPField, ResidualMLPField


class PlainBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6, elementwise_affine=False),
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


class PlainMLP(nn.Module):
    def __init__(
        self, actions: int, horizon: int, features: int, width: int, depth: int, residual: bool = False
    ) -> None:
        super().__init__()
        inputs, outputs = features + horizon * actions + 1, horizon * actions
        layers: list[nn.Module] = [nn.Linear(inputs, width)]
        if residual:
            layers += [PlainBlock(width) for _ in range(depth)]
            layers += [nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)]
        else:
            for _ in range(depth - 1):
                layers += [nn.GELU(approximate="tanh"), nn.Linear(width, width)]
            layers += [nn.GELU(approximate="tanh")]
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x_BHA: Tensor, t_B: Tensor, features_BF: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([features_BF, x_BHA.flatten(1), t_B[:, None]], -1))
        return out.view_as(x_BHA)


@torch.no_grad()
def copy_weights(field: MLPField | ResidualMLPField, m: int, plain: Any) -> None:
    """Make member m of a pack the plain network."""

    def linear(ours: Any, theirs: Any) -> None:
        ours.weights_MIO[m], ours.bias_M1O[m, 0] = theirs.weight.T, theirs.bias

    found = [layer for layer in plain.modules() if isinstance(layer, nn.Linear)]
    if isinstance(field, MLPField):
        for ours, theirs in zip(field.layers, found, strict=True):
            linear(ours, theirs)
        return
    assert field.observe is not None
    first, features = found[0].weight.T, field.observe.weights_MIO.shape[1]
    field.observe.weights_MIO[m], field.first.weights_MIO[m] = first[:features], first[features:]
    field.first.bias_M1O[m, 0] = found[0].bias
    for ours, theirs in zip(field.up, found[1:-1:2], strict=True):
        linear(ours, theirs)
    for ours, theirs in zip(field.down, found[2:-1:2], strict=True):
        linear(ours, theirs)
    linear(field.out, found[-1])
