"""The diffusion transformer as one writes it with torch.nn: one member, everything computed at every evaluation.

What `raybc.policies.fields.transformer` is compared with, in benchmarks and in tests (`copy_weights`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raybc.policies.fields.time import TIME_SCALE
from raybc.policies.fields.transformer import TIME_SIZE, TransformerField


class PlainLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, 6 * width))
        self.norm_1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm_seen = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.seen_keys, self.seen_values = nn.Linear(width, width), nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def by_head(self, x_BXD: Tensor) -> Tensor:
        batch, tokens, width = x_BXD.shape
        return x_BXD.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, x_BHD: Tensor, seen_BPD: Tensor, condition_BC: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition_BC)[:, None].chunk(6, dim=-1)
        y, seen = self.norm_1(x_BHD) * (1 + scale_1) + shift_1, self.norm_seen(seen_BPD)
        keys = torch.cat([self.seen_keys(seen), self.keys(y)], dim=1)
        values = torch.cat([self.seen_values(seen), self.values(y)], dim=1)
        attended = functional.scaled_dot_product_attention(*map(self.by_head, (self.queries(y), keys, values)))
        x = x_BHD + gate_1 * self.project(attended.transpose(1, 2).flatten(2))
        out: Tensor = x + gate_2 * self.feed(self.norm_2(x) * (1 + scale_2) + shift_2)
        return out


class PlainTransformer(nn.Module):
    """obs: (T observation steps, O observation dim), the last `features - T * O` features are those of one image."""

    def __init__(
        self, actions: int, horizon: int, obs: tuple[int, int], features: int, layers: int, heads: int, width: int
    ) -> None:
        super().__init__()
        self.obs, rest = obs, features - obs[0] * obs[1]
        self.low_dim = nn.Linear(obs[1], width)
        self.image = nn.Linear(rest, width) if rest else None
        self.observe = nn.Linear(features, width)
        self.time = nn.Sequential(nn.Linear(TIME_SIZE, width), nn.SiLU(), nn.Linear(width, width))
        self.act = nn.Linear(actions, width)
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.seen_position = nn.Parameter(0.02 * torch.randn(obs[0] + (rest > 0), width))
        self.layers = nn.ModuleList(PlainLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, 2 * width))
        self.out = nn.Linear(width, actions)

    def forward(self, x_BHA: Tensor, t_B: Tensor, features_BF: Tensor) -> Tensor:
        half = TIME_SIZE // 2
        steps = torch.arange(half, dtype=t_B.dtype)
        angles = TIME_SCALE * t_B[:, None] * torch.exp(-steps * (math.log(10000) / (half - 1)))
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        condition = torch.cat([time, self.observe(features_BF)], -1)
        numbers = self.obs[0] * self.obs[1]
        seen = self.low_dim(features_BF[:, :numbers].unflatten(1, self.obs))
        if self.image is not None:
            seen = torch.cat([seen, self.image(features_BF[:, None, numbers:])], 1)
        seen = seen + self.seen_position
        x = self.act(x_BHA) + self.position
        for layer in self.layers:
            x = layer(x, seen, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        out: Tensor = self.out(self.norm(x) * (1 + scale) + shift)
        return out


@torch.no_grad()
def copy_weights(field: TransformerField, m: int, plain: Any) -> None:
    """Make member m of a pack the plain network."""

    def linear(ours: Any, *theirs: Any) -> None:
        ours.weights_MIO[m] = torch.cat([layer.weight for layer in theirs]).T
        ours.bias_M1O[m, 0] = torch.cat([layer.bias for layer in theirs])

    linear(field.tokens.low_dim, plain.low_dim)
    if plain.image is not None:
        linear(field.tokens.image, plain.image)
    field.tokens.position_M1PD[m, 0], field.position_M1HD[m, 0] = plain.seen_position, plain.position
    linear(field.observe, plain.observe)
    linear(field.time_in, plain.time[0])
    linear(field.time_out, plain.time[2])
    linear(field.act, plain.act)
    linear(field.out, plain.out)
    linear(field.seen, *(part for layer in plain.layers for part in (layer.seen_keys, layer.seen_values)))
    modulations = [layer.modulation[1] for layer in (*plain.layers, plain)]
    weight, width = torch.cat([modulation.weight for modulation in modulations]).T, plain.act.out_features
    field.modulate_time.weights_MIO[m], field.modulate.weights_MIO[m] = weight[:width], weight[width:]
    field.modulate.bias_M1O[m, 0] = torch.cat([modulation.bias for modulation in modulations])
    for ours, theirs in zip(field.layers, plain.layers, strict=True):
        ours_any: Any = ours
        linear(ours_any.attend, theirs.queries, theirs.keys, theirs.values)
        linear(ours_any.attended, theirs.project)
        linear(ours_any.up, theirs.feed[0])
        linear(ours_any.down, theirs.feed[2])
