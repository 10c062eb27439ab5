"""When rows of metrics.csv are due, and the training loss since the row before.

Letter: M members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Prefix of the tensors in a training state.
_PREFIX = "epoch/"


def epoch_of(step: int, steps: int) -> int:
    """The epoch of the latest step, from 1. step: gradient steps so far. steps: of an epoch."""
    return max(1, -(-step // steps))


class EpochMeter:
    """Counts epochs, and sums the losses of the members."""

    def __init__(self, steps: int, every: int, members: int, device: torch.device) -> None:
        """
        Args:
            steps: gradient steps of an epoch.
            every: epochs between rows; 0: there are none.
            members: M.
            device: where losses are.
        """
        self.steps, self.every = steps, every
        self.rates: list[float] = []
        """Learning rate of each member at the latest step."""
        self._sum_M = torch.zeros(members, device=device, dtype=torch.float64)
        self._count_M = torch.zeros(members, device=device, dtype=torch.float64)
        self._is_over = [False] * members

    def add(self, loss_M: Tensor, rates: Sequence[float]) -> None:
        """Count a gradient step."""
        if self.every:
            self.rates = list(rates)
            self._sum_M += loss_M
            self._count_M += 1

    def due(self, step: int, finished: bool, stopped: Sequence[bool]) -> list[int]:
        """The members that get a row after `step`: at the end of an epoch, when training is finished, and for the last
        time when they stop early.

        stopped: of each member, whether it has stopped early.
        """
        if not self.every:
            return []
        ends = finished or step % (self.steps * self.every) == 0
        pairs = enumerate(zip(stopped, self._is_over, strict=True))
        return [m for m, (now, over) in pairs if not over and (ends or now)]

    def losses(self) -> list[float]:
        """The mean training loss of each member over the steps since the last end of an epoch that had a row."""
        return (self._sum_M / self._count_M).tolist()

    def close(self, step: int, stopped: Sequence[bool]) -> None:
        """Call after the rows of `step` were written."""
        self._is_over = list(stopped)
        if step % (self.steps * self.every) == 0:
            self._sum_M.zero_()
            self._count_M.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """For a training state, with the member axis first; empty without rows."""
        return {f"{_PREFIX}sum": self._sum_M, f"{_PREFIX}count": self._count_M} if self.every else {}

    def load(self, tensors: Mapping[str, Tensor], stopped: Sequence[bool]) -> None:
        """Continue from a training state; from one that was saved without rows, with an empty sum."""
        for name, value_M in self.tensors().items():
            value_M.copy_(tensors.get(name, torch.zeros_like(value_M)))
        self._is_over = list(stopped)


def is_optional(name: str) -> bool:
    """Whether a training state may lack a tensor."""
    return name.startswith(_PREFIX)
