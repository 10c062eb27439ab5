"""Networks f(x, t | obs) of a chunk x and a time t, for a pack of members.

Objectives (flow matching, diffusion, regression ...) know only this interface, so every network works with every
objective. Letters: M members, B batch, H chunk, A action dim, F features of the observation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raybc.policies.frozen import Times


class Field(nn.Module, ABC):
    """M networks f(x, t | obs): a velocity, noise or a chunk, as the objective says."""

    zero_gates: ClassVar[bool] = False
    """See `Policy.zero_gates`."""
    times: Times | None = None

    @abstractmethod
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise the weights; member m depends on generators[m] alone."""

    def condition(self, cond_MBF: Tensor) -> Any:
        """Everything that depends only on the encoded observation, (M, B, F); computed once per chunk."""
        return cond_MBF

    @abstractmethod
    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Any) -> Tensor:
        """f(x, t | obs), (M, B, H, A). t_MB1: in [0, 1]; (M, 1, 1) if all rows share it. condition: result of
        `condition`."""

    def time_part(self, t_MB1: Tensor) -> Any:
        """Everything that depends only on the time; `of_time` calls it."""
        return t_MB1

    def of_time(self, t_MB1: Tensor) -> Any:
        """`time_part`, computed once for each time after `prepare_for_acting` where all rows share the time."""
        return self.time_part(t_MB1) if self.times is None else self.times(t_MB1, self.time_part)

    def prepare_for_acting(self) -> None:
        """See `Policy.prepare_for_acting`."""
        self.times = Times()
