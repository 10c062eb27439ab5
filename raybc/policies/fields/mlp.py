"""The velocity field as a multilayer perceptron of (observation, x_t, t).

Letters: M members, B batch, H chunk, A action dim, F features of the observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raybc.policies.base import PolicySpec
from raybc.policies.fields.base import Field
from raybc.policies.packed import PackedMLP, PackedResidualMLP, fourier_features

if TYPE_CHECKING:
    from raybc.config import RunConfig

#: Fourier features of the flow time: cos and sin of this many frequencies.
FREQUENCIES = 8


class MLPField(PackedMLP, Field):
    """A pack of M fields. fourier: encode the time as Fourier features instead of a scalar."""

    def __init__(
        self,
        members: int,
        features: int,
        horizon: int,
        action_size: int,
        *,
        widths: Sequence[int],
        fourier: bool,
        relu: bool = False,
    ) -> None:
        chunk = horizon * action_size
        super().__init__(members, features + chunk + (2 * FREQUENCIES if fourier else 1), chunk, widths, relu)
        self.fourier = fourier

    def condition(self, cond_MBF: Tensor) -> Tensor:
        return cond_MBF

    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        """v(x, t | obs), (M, B, H, A)."""
        t_MB1 = t_MB1.expand(-1, x_MBHA.shape[1], -1)
        time = fourier_features(t_MB1, FREQUENCIES) if self.fourier else t_MB1
        out = super().forward(torch.cat([condition, x_MBHA.flatten(2), time], dim=-1))
        return out.unflatten(-1, x_MBHA.shape[2:])


class ResidualMLPField(PackedResidualMLP, Field):
    """A pack of M fields with residual blocks. The first layer's part of the observation is computed once per chunk.

    fourier: encode the time as Fourier features instead of a scalar.
    """

    def __init__(
        self, members: int, features: int, horizon: int, action_size: int, *, width: int, depth: int, fourier: bool
    ) -> None:
        chunk = horizon * action_size
        super().__init__(members, chunk + (2 * FREQUENCIES if fourier else 1), chunk, width, depth, features)
        self.fourier = fourier

    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        """v(x, t | obs), (M, B, H, A)."""
        t_MB1 = t_MB1.expand(-1, x_MBHA.shape[1], -1)
        time = fourier_features(t_MB1, FREQUENCIES) if self.fourier else t_MB1
        out = super().forward(torch.cat([x_MBHA.flatten(2), time], dim=-1), condition)
        return out.unflatten(-1, x_MBHA.shape[2:])


def build(run: RunConfig, spec: PolicySpec, features: int, members: int) -> Field:
    """The network of `--policy flow`."""
    config: Any = run.policy
    sizes = members, features, spec.horizon, spec.action_size
    fourier = config.use_fourier_features
    if config.hidden_block == "residual":
        return ResidualMLPField(*sizes, width=config.hidden_width, depth=config.hidden_depth, fourier=fourier)
    return MLPField(*sizes, widths=config.widths, fourier=fourier, relu=config.hidden_activation == "relu")
