"""The conditional 1-D U-Net of Diffusion Policy.

Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion"; Ronneberger et al. 2015, "U-Net";
Perez et al. 2018, "FiLM". Time runs along L, channels come last, and convolutions see an action as channels:

    block     y = mish(group_norm(conv(x)))
    residual  block -> scale * y + shift -> block -> + x (1x1 convolution of x where channels differ)
    down      residual, residual, convolution of kernel 3 and stride 2       (none below the lowest level)
    middle    residual, residual
    up        concatenate the level's skip; residual, residual, transposed convolution of kernel 4 and stride 2
    last      block, 1x1 convolution

The highest level's skip is not used, as in the original. Scales and shifts of all blocks are one linear map of
mish([time embedding, observations]); since Mish works on each entry alone, the map is a sum of a part that depends on
the observations, made once per chunk by `condition`, and a part that depends on the time.

Letters: M members, B batch, H chunk, A action dim, E time embedding, F features of the observation, S scales and
shifts of all residual blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raybc.policies.base import PolicySpec
from raybc.policies.fields.base import Field
from raybc.policies.fields.convolution import (
    PackedBlock,
    PackedConv1d,
    PackedPointwise,
    PackedResidual,
    PackedUpsample,
    UniformLinear,
    init_uniform,
    mish,
)
from raybc.policies.fields.time import sinusoids

if TYPE_CHECKING:
    from raybc.config import RunConfig


class UNetField(Field):
    """M networks; H must be a multiple of `divisor` = 2^(levels - 1)."""

    def __init__(
        self,
        members: int,
        action_size: int,
        features: int,
        *,
        channels: Sequence[int] = (256, 512, 1024),
        kernel: int = 5,
        groups: int = 8,
        time_size: int = 256,
    ) -> None:
        super().__init__()

        def pair(inputs: int, outputs: int) -> list[PackedResidual]:
            return [PackedResidual(members, i, outputs, kernel, groups) for i in (inputs, outputs)]

        levels = list(itertools.pairwise([action_size, *channels]))
        self.time_size = time_size
        self.divisor = 2 ** (len(levels) - 1)
        self.time_in = UniformLinear(members, time_size, 4 * time_size)
        self.time_out = UniformLinear(members, 4 * time_size, time_size)
        self.down = nn.ModuleList(residual for i, o in levels for residual in pair(i, o))
        self.shrink = nn.ModuleList(PackedConv1d(members, o, o, kernel=3, stride=2) for _, o in levels[:-1])
        self.middle = nn.ModuleList(pair(channels[-1], channels[-1]))
        self.up = nn.ModuleList(residual for i, o in reversed(levels[1:]) for residual in pair(2 * o, i))
        self.grow = nn.ModuleList(PackedUpsample(members, i) for i, _ in reversed(levels[1:]))
        self.last = PackedBlock(members, channels[0], channels[0], kernel, groups)
        self.out = PackedPointwise(members, channels[0], action_size)
        self.film_sizes = [2 * module.outputs for module in self.modules() if isinstance(module, PackedResidual)]
        self.film_obs = UniformLinear(members, features, sum(self.film_sizes))
        self.film_time_MES = nn.Parameter(torch.empty(members, time_size, sum(self.film_sizes)))

    @torch.no_grad()
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise as PyTorch does by default; member m depends on generators[m] alone."""
        seen = self.film_time_MES.shape[1] + self.film_obs.weights_MIO.shape[1]
        for m, generator in enumerate(generators):
            for module in self.modules():
                if isinstance(module, (UniformLinear, PackedConv1d, PackedUpsample)):
                    module.init_member(m, generator)
            for parameter in (*self.film_obs.parameters(), self.film_time_MES):
                init_uniform(parameter[m], seen, generator)

    def condition(self, cond_MBF: Tensor) -> Tensor:
        """The contribution of the observations to all scales and shifts, (M, B, S); computed once per chunk."""
        return self.film_obs(mish(cond_MBF))

    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Tensor) -> Tensor:
        """v(x, t | obs), (M, B, H, A). t_MB1: (M, 1, 1) if all rows share it."""
        time_MBE = self.time_out(mish(self.time_in(sinusoids(t_MB1, self.time_size))))
        film_MBS = condition + torch.bmm(mish(time_MBE), self.film_time_MES)
        films = iter(film_MBS.unsqueeze(2).split(self.film_sizes, dim=-1))
        x, skips = x_MBHA, []
        for n, residual in enumerate(self.down):
            x = residual(x, next(films))
            if n % 2:  # a level's second block
                skips.append(x)
                x = self.shrink[n // 2](x) if n // 2 < len(self.shrink) else x
        for residual in self.middle:
            x = residual(x, next(films))
        for n, residual in enumerate(self.up):
            x = residual(x if n % 2 else torch.cat([x, skips.pop()], dim=-1), next(films))
            x = self.grow[n // 2](x) if n % 2 else x
        return self.out(self.last(x))


def build(run: RunConfig, spec: PolicySpec, features: int, members: int) -> UNetField:
    """The network of `--policy flow_unet`."""
    config: Any = run.policy
    return UNetField(
        members, spec.action_size, features, channels=config.channels, kernel=config.unet_kernel,
        groups=config.unet_groups, time_size=config.unet_time_size,
    )  # fmt: skip
