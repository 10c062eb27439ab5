"""One demonstration in memory. Only numpy is needed, so that simulator processes can record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Demo:
    """One demonstration of T steps."""

    obs: Mapping[str, np.ndarray]
    """Name -> float32 (T, size), before each action."""
    next_obs: Mapping[str, np.ndarray]
    """Name -> float32 (T, size), after each action."""
    actions: np.ndarray
    """float32 (T, A), in the controller's units."""
    rewards: np.ndarray
    """float32 (T,)."""
    dones: np.ndarray
    """int64 (T,): 1 where the episode ends or the task is solved."""
    states: np.ndarray
    """float64 (T, S): the simulator's state before each action."""
    seed: int
    """Seed of the reset that it began with."""
    model_xml: str = ""
    """The simulator's model (MJCF); "" where it has none."""
