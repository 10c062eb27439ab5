"""What a policy is. Letters: M members, B batch, O observation dim, H chunk, A action dim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from raybc.types import Batch


@dataclass(frozen=True)
class PolicyShape:
    """Sizes that make a policy's parameters, besides its hyper-parameters; obs_size counts all obs_steps."""

    obs_size: int
    action_size: int
    horizon: int


class Policy(Protocol):
    """A pack of M policies. No optimiser, logging, environment or Ray inside; everything random is passed in."""

    members: int
    shape: PolicyShape

    def draw_size(self, batch_size: int) -> tuple[int, int]:
        """Numbers that `loss` needs for a batch of one member: (standard normal, uniform in [0, 1))."""

    def loss(self, batch: Batch, noise: Tensor, time: Tensor) -> Tensor:
        """Loss of each example, float32 (M, B); padded chunk steps carry none."""

    def sample(self, obs_MBO: Tensor, noise_MBHA: Tensor, flow_steps: int) -> Tensor:
        """Normalised chunks, float32 (M, B, H, A)."""
