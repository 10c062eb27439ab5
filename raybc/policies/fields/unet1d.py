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

from raybc.policies.activations import mish
from raybc.policies.base import PolicySpec
from raybc.policies.fields.base import Field
from raybc.policies.fields.convolution import (
    FrozenBlock,
    FrozenResidual,
    PackedBlock,
    PackedConv1d,
    PackedPointwise,
    PackedResidual,
    PackedUpsample,
    UniformLinear,
    init_uniform,
    pad,
)
from raybc.policies.fields.time import sinusoids
from raybc.policies.frozen import FrozenConv1d, can_freeze, is_acting

if TYPE_CHECKING:
    from raybc.config import RunConfig


class UNetField(Field):
    """M networks; H must be a multiple of `divisor` = 2^(levels - 1)."""

    frozen: FrozenUNet | None = None
    """The network for acting."""

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
        if self.frozen is not None and is_acting():
            return self.frozen.film_obs(mish(cond_MBF[0])).unsqueeze(0)
        film_MBS: Tensor = self.film_obs(mish(cond_MBF))
        return film_MBS

    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Tensor) -> Tensor:
        """v(x, t | obs), (M, B, H, A). t_MB1: (M, 1, 1) if all rows share it."""
        film_MBS = condition + self.of_time(t_MB1)
        if self.frozen is not None and is_acting():
            return self.frozen(x_MBHA[0], film_MBS[0]).unsqueeze(0)
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

    def time_part(self, t_MB1: Tensor) -> Tensor:
        """The contribution of the time to all scales and shifts, (M, B, S)."""
        time_MBE = self.time_out(mish(self.time_in(sinusoids(t_MB1, self.time_size))))
        return torch.bmm(mish(time_MBE), self.film_time_MES)

    def prepare_for_acting(self) -> None:
        if can_freeze(self):
            super().prepare_for_acting()
            self.frozen = FrozenUNet(self)


class FrozenUNet:
    """A `UNetField` of one member for acting: (B, H, A) -> (B, H, A)."""

    def __init__(self, field: UNetField) -> None:
        self.sizes = field.film_sizes
        self.film_obs = field.film_obs.freeze()
        # Typed Any: iterating a ModuleList gives modules.
        down, middle, up, shrink, grow = map(list[Any], (field.down, field.middle, field.up, field.shrink, field.grow))
        self.down, self.middle, self.up = (list(map(FrozenResidual, part)) for part in (down, middle, up))
        self.shrink = [
            FrozenConv1d(conv.weights_MOKI[0], conv.bias_MO[0], conv.stride, conv.padding) for conv in shrink
        ]
        self.grow = [
            FrozenConv1d(one.weights_MPOKI[0].flatten(0, 1), one.bias_MO[0].repeat(2), stride=1, padding=1)
            for one in grow
        ]
        self.last, self.out = FrozenBlock(field.last), field.out.freeze()

    def __call__(self, x_BHA: Tensor, film_BS: Tensor) -> Tensor:
        films = iter(film_BS.unsqueeze(1).split(self.sizes, dim=-1))
        x, skips = x_BHA, []
        for n, residual in enumerate(self.down):
            x = residual(x, next(films))
            if n % 2:
                skips.append(x)
                if n // 2 < len(self.shrink):
                    shrink = self.shrink[n // 2]
                    x = shrink(pad(x, shrink.padding)).view(len(x), -1, x.shape[2])
        for residual in self.middle:
            x = residual(x, next(films))
        for n, residual in enumerate(self.up):
            x = residual(x if n % 2 else torch.cat([x, skips.pop()], dim=-1), next(films))
            if n % 2:  # pairs of neighbours in a row, with one entry too many at either end
                x = self.grow[n // 2](pad(x, 1)).view(len(x), -1, x.shape[2])[:, 1:-1]
        return self.out(self.last(x).flatten(0, 1)).view_as(x_BHA)


def build(run: RunConfig, spec: PolicySpec, features: int, members: int) -> UNetField:
    """The network of `--policy flow_unet`."""
    config: Any = run.policy
    return UNetField(
        members, spec.action_size, features, channels=config.channels, kernel=config.unet_kernel,
        groups=config.unet_groups, time_size=config.unet_time_size,
    )  # fmt: skip
