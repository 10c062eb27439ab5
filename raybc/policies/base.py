"""What a policy is. Letters: M members, B batch, O observation dim, H chunk, A action dim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from raybc.types import Batch


@dataclass(frozen=True)
class PolicyShape:
    """Sizes that make a policy's parameters, besides its hyper-parameters.

    obs_size: numbers that are observed. images: (name, (height, width, channels)) of each kind of image. Numbers
    and channels of all obs_steps are counted.
    """

    obs_size: int
    action_size: int
    horizon: int
    images: tuple[tuple[str, tuple[int, int, int]], ...] = ()

    @classmethod
    def of(
        cls,
        obs_sizes: Mapping[str, int],
        images: Mapping[str, tuple[int, int, int]],
        action_size: int,
        horizon: int,
        obs_steps: int,
    ) -> PolicyShape:
        """Of a policy that sees `obs_steps` observations: name -> size, name -> (height, width, channels)."""
        seen = tuple((name, (h, w, obs_steps * c)) for name, (h, w, c) in images.items())
        return cls(obs_steps * sum(obs_sizes.values()), action_size, horizon, seen)


class Policy(Protocol):
    """A pack of M policies. No optimiser, logging, environment or Ray inside; everything random is passed in."""

    members: int
    shape: PolicyShape

    def draw_size(self, batch_size: int) -> tuple[int, int]:
        """Numbers that `loss` needs for a batch of one member: (standard normal, uniform in [0, 1))."""

    def loss(self, batch: Batch, noise: Tensor, time: Tensor) -> Tensor:
        """Loss of each example, float32 (M, B); padded chunk steps carry none."""

    def sample(
        self, obs_MBO: Tensor, noise_MBHA: Tensor, flow_steps: int, images: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Normalised chunks, float32 (M, B, H, A). images: as in `Batch`, of the names in `shape`."""
