"""A simulator that steps many worlds at once, e.g. on a GPU: `BatchedEnv`, and what it returns, `Worlds`.

Each of its worlds has an episode of its own and is reset alone. Episodes see a world as a `SimEnv`
(`raybc.envs.world`). Letters: N worlds, A action dim, D size of an observation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np


@dataclass(frozen=True)
class Worlds:
    """What N worlds return after a reset or a step. Rows of worlds that took no part in it are not read."""

    obs: Mapping[str, np.ndarray]
    """Name -> (N, D) float32, or (N, height, width, 3) uint8."""
    success: np.ndarray
    """(N,) bool: whether the task is solved in this very step."""
    reward: np.ndarray
    """(N,) float; not read after a reset."""
    terminated: np.ndarray
    """(N,) bool; not read after a reset."""
    truncated: np.ndarray
    """(N,) bool; not read after a reset."""
    faults: Mapping[int, Exception] = field(default_factory=dict)
    """World -> what went wrong in it alone, e.g. that its simulation diverged. Its episode is an error and is not
    repeated; the other worlds are not affected."""


class BatchedEnv(ABC):
    """N worlds of one task in one process. Like a `SimEnv`, it has no step limit.

    What happens in a world is a function of its seed and its actions: neither the other worlds, nor N, nor its number,
    nor earlier episodes change it. `raybc.testing.check_batched` tests that.
    """

    worlds: int
    """N."""
    observation_space: gymnasium.spaces.Dict[Any]
    """Of one world, as of a `SimEnv`."""
    action_space: gymnasium.spaces.Box
    """Of one world, as of a `SimEnv`."""
    instruction: str = ""
    """What the robot is asked to do, in words; "" where tasks have none."""

    @abstractmethod
    def reset(self, seeds: Mapping[int, int]) -> Worlds:
        """Start an episode in some worlds (number -> seed), without a change of the others. Resetting many worlds at
        once is faster than one by one.

        An exception is one of the whole batch: its process is replaced, and all episodes in it are run again.
        """

    @abstractmethod
    def step(self, actions_NA: np.ndarray, acts_N: np.ndarray) -> Worlds:
        """Execute one action in each world with an episode.

        Args:
            actions_NA: float32 (N, A), within the action space.
            acts_N: bool (N,): the worlds with an episode. The others have none, so it does not matter what becomes of
                them; the next one begins with a reset.

        An exception is one of the whole batch (see `reset`).
        """

    @abstractmethod
    def sim_state(self, world: int) -> np.ndarray:
        """The state of a world as float64 (S,); (0,) where it cannot be read."""

    @abstractmethod
    def env_args(self) -> dict[str, Any]:
        """As of a `SimEnv`."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """As of a `SimEnv`; also what it is simulated on, where scores depend on it."""

    def render(self, world: int) -> np.ndarray:
        """An image of a world: uint8 (height, width, 3), upright. Only called where `Task.make` was asked for it."""
        raise NotImplementedError

    def cameras(self) -> tuple[str, ...] | None:
        """As of a `SimEnv`."""
        return None

    def close(self) -> None:  # noqa: B027  (most have nothing to free)
        """Free what it holds."""
