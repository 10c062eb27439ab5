"""`EpisodeStore`: demonstrations as flat read-only arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raybc.types import UserError


@dataclass(frozen=True)
class EpisodeStore:
    """Demonstrations, in physical units.

    obs: name -> float32 (N, O_name). actions_NA: float32. rewards_N: float32. episode_ends: int64 (E,), the exclusive
    end of each episode in the flat arrays. splits: name -> episode numbers (e.g. "train", "valid"). env_args: the
    environment that the data was made in (robomimic's layout). source: where it was read from.
    """

    obs: Mapping[str, np.ndarray]
    actions_NA: np.ndarray
    rewards_N: np.ndarray
    episode_ends: np.ndarray
    splits: Mapping[str, np.ndarray] = field(default_factory=dict)
    env_args: Mapping[str, Any] = field(default_factory=dict)
    source: Path = Path()

    def __post_init__(self) -> None:
        n = len(self.actions_NA)
        if len(self.episode_ends) == 0:
            raise UserError(f"{self.source}: expected at least one episode, got none")
        if self.episode_ends[-1] != n or np.any(np.diff(self.episode_ends, prepend=0) <= 0):
            raise UserError(f"{self.source}: episode ends {self.episode_ends} do not cut {n} transitions")
        for name, array in {**self.obs, "actions": self.actions_NA, "rewards": self.rewards_N}.items():
            if len(array) != n:
                raise UserError(f"{self.source}: {name}: expected {n} rows as in actions, got {len(array)}")
            if not np.isfinite(array).all():
                episode = int(np.searchsorted(self.episode_ends, np.argwhere(~np.isfinite(array))[0][0], side="right"))
                raise UserError(f"{self.source}: {name}: expected finite numbers, got nan or inf in episode {episode}")
            array.setflags(write=False)

    @property
    def num_episodes(self) -> int:
        return len(self.episode_ends)

    @property
    def episode_starts(self) -> np.ndarray:
        return np.concatenate([[0], self.episode_ends[:-1]])

    def observation(self, keys: tuple[str, ...]) -> np.ndarray:
        """The observations `keys` side by side, float32 (N, O)."""
        missing = [k for k in keys if k not in self.obs]
        if missing:
            raise UserError(f"{self.source}: expected observation {missing[0]!r}, got {sorted(self.obs)}")
        return np.concatenate([self.obs[k] for k in keys], axis=1)

    def split(self, name: str) -> np.ndarray:
        """Episode numbers of a split; every episode when the data has no such split."""
        return np.asarray(self.splits.get(name, np.arange(self.num_episodes)))

    def fingerprint(self) -> str:
        """sha256 (hex) of the contents: arrays, episode ends and splits, not of the file's name or date."""
        h = hashlib.sha256()
        parts = {f"obs/{k}": v for k, v in self.obs.items()} | {
            "actions": self.actions_NA,
            "rewards": self.rewards_N,
            "episode_ends": np.asarray(self.episode_ends, np.int64),
            **{f"split/{k}": np.asarray(v, np.int64) for k, v in self.splits.items()},
        }
        for name in sorted(parts):
            array = np.ascontiguousarray(parts[name])
            h.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            h.update(array.data)
        return h.hexdigest()


def check_matches_task(store: EpisodeStore, obs_sizes: Mapping[str, int], action_size: int, task: str) -> None:
    """Refuse data whose observations or actions do not have the environment's sizes."""
    for name, size in obs_sizes.items():
        if name not in store.obs:
            raise UserError(
                f"{store.source}: observation {name!r} of environment {task!r} is missing; got {sorted(store.obs)}"
            )
        if store.obs[name].shape[1] != size:
            raise UserError(
                f"{store.source}: observation {name!r}: environment {task!r} has size {size}, "
                f"the data has {store.obs[name].shape[1]}"
            )
    if store.actions_NA.shape[1] != action_size:
        raise UserError(
            f"{store.source}: actions: environment {task!r} has size {action_size}, "
            f"the data has {store.actions_NA.shape[1]}"
        )
