"""What follows each transition: rewards, ends and the next observation, for learners with a critic.

    R = sum_{i < h} gamma^i r_{t+i};   mask = 0 where the chunk t .. t+h-1 ends in a terminal, else 1
    valid = 1 where the chunk lies in its episode and s_{t+h} is known, or nothing follows; else 0

A time limit is no terminal. Demonstrations do not have the observation after their last action, so a chunk that ends
there without a terminal is not valid; an episode whose last observation is known has it as a further row.

Letters: N transitions, M members, B batch, h steps of a chunk from the current one on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ChunkEnd(NamedTuple):
    """See `raybc.types.Transition`."""

    reward_MB: Tensor
    mask_MB: Tensor
    valid_MB: Tensor
    next_MB: Tensor
    """int64, the row of the next observation; any row where that is not known."""


@dataclass(frozen=True)
class Transitions:
    """Rewards and ends of all transitions, on the device of the windows."""

    rewards_N: Tensor
    """float32 (N,)."""
    terminals_N: Tensor
    """bool (N,): whether nothing follows."""
    next_N: Tensor
    """int64 (N,): the row of the observation after each transition, which may be beyond N; -1 where it is not known."""
    gamma: float
    """Discount of a step."""

    @classmethod
    def build(
        cls,
        rewards_N: np.ndarray,
        terminals_N: np.ndarray,
        episode_ends: np.ndarray,
        gamma: float,
        device: torch.device,
    ) -> Transitions:
        """Of episodes without an observation after their last action. rewards_N: float32. terminals_N: bool."""
        next_N = np.arange(1, len(rewards_N) + 1)
        next_N[episode_ends - 1] = -1
        return cls(
            torch.from_numpy(rewards_N.astype(np.float32)).to(device),
            torch.from_numpy(terminals_N.astype(bool)).to(device),
            torch.from_numpy(next_N).to(device),
            gamma,
        )

    def over(self, first_MB: Tensor, last_MB: Tensor, steps: int) -> ChunkEnd:
        """What `steps` transitions from `first_MB` on led to; last_MB: the last transition of the episode. int64."""
        rows_MBh = first_MB[..., None] + torch.arange(steps, device=first_MB.device)
        inside_MBh = rows_MBh <= last_MB[..., None]
        rows_MBh = torch.minimum(rows_MBh, last_MB[..., None])
        discounts_h = self.gamma ** torch.arange(steps, device=first_MB.device, dtype=torch.float32)
        reward_MB = (self.rewards_N[rows_MBh] * inside_MBh * discounts_h).sum(-1)
        ended_MBh = self.terminals_N[rows_MBh]
        final_MB, next_MB = ended_MBh[..., -1], self.next_N[rows_MBh[..., -1]]
        valid_MB = inside_MBh[..., -1] & (final_MB | (next_MB >= 0)) & ~ended_MBh[..., :-1].any(-1)
        next_MB = torch.where(next_MB >= 0, next_MB, rows_MBh[..., -1])
        return ChunkEnd(reward_MB, (~final_MB).float(), valid_MB.float(), next_MB)
