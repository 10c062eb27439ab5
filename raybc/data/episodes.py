"""`EpisodeStore`: demonstrations as flat read-only arrays.

Letters: N transitions of all episodes, E episodes, A action dim, S size of a simulator state; H, W, C height, width and
channels of an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raybc.types import UserError


@dataclass(frozen=True)
class EpisodeStore:
    """Demonstrations, in physical units.

    obs: name -> float32 (N, size), or uint8 (N, H, W, C) for images. actions_NA: float32. rewards_N: float32.
    episode_ends: int64 (E,), the exclusive end of each episode in the flat arrays. splits: name -> episode numbers
    (e.g. "train", "valid"). env_args: the environment that the data was made in (robomimic's layout). source: where it
    was read from.

    What not every format tells: terminals_N, bool, true where the environment ended the episode (not a time limit);
    states_NS, float64, the simulator's state before each action; tasks, an instruction in words for each episode;
    success_E, bool; action_range, the declared lowest and highest action, float32 (A,) each; files, of a set in several
    files the exclusive end of each among the episodes (of those for training).

    checked: whether the numbers are known to be finite already, as those of a converted store are; otherwise every
    array is looked through here.
    """

    obs: Mapping[str, np.ndarray]
    actions_NA: np.ndarray
    rewards_N: np.ndarray
    episode_ends: np.ndarray
    splits: Mapping[str, np.ndarray] = field(default_factory=dict)
    env_args: Mapping[str, Any] = field(default_factory=dict)
    source: Path = Path()
    terminals_N: np.ndarray | None = None
    states_NS: np.ndarray | None = None
    tasks: tuple[str, ...] = ()
    success_E: np.ndarray | None = None
    action_range: tuple[np.ndarray, np.ndarray] | None = None
    files: tuple[int, ...] = ()
    checked: InitVar[bool] = False

    def __post_init__(self, checked: bool) -> None:
        n = len(self.actions_NA)
        if len(self.episode_ends) == 0:
            raise UserError(f"{self.source}: expected at least one episode, got none")
        if self.episode_ends[-1] != n or np.any(np.diff(self.episode_ends, prepend=0) <= 0):
            raise UserError(f"{self.source}: episode ends {self.episode_ends} do not cut {n} transitions")
        for name, array in self.arrays().items():
            if len(array) != n:
                raise UserError(f"{self.source}: {name}: expected {n} rows as in actions, got {len(array)}")
            if not checked:
                check_finite(self.source, name, array, self.episode_ends)
            array.setflags(write=False)
        for name, values in (("tasks", self.tasks or None), ("success", self.success_E)):
            if values is not None and len(values) != self.num_episodes:
                expected = f"one for each of {self.num_episodes} episodes"
                raise UserError(f"{self.source}: {name}: expected {expected}, got {len(values)}")
        if self.action_range is not None:
            low, high = self.action_range
            size = self.actions_NA.shape[1:]
            if low.shape != size or high.shape != size or not (low <= high).all():
                raise UserError(f"{self.source}: action range: expected low <= high of shape {size}: {low}, {high}")

    @property
    def num_episodes(self) -> int:
        return len(self.episode_ends)

    @property
    def episode_starts(self) -> np.ndarray:
        return np.concatenate([[0], self.episode_ends[:-1]])

    @property
    def images(self) -> tuple[str, ...]:
        """The observations that are images."""
        return tuple(name for name, array in self.obs.items() if array.dtype == np.uint8)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that has a row for each transition, by the name it has in messages and on disk."""
        more = {"terminals": self.terminals_N, "states": self.states_NS}
        return {
            **{f"obs/{name}": array for name, array in self.obs.items()},
            "actions": self.actions_NA,
            "rewards": self.rewards_N,
            **{name: array for name, array in more.items() if array is not None},
        }

    def check_has(self, keys: Sequence[str]) -> None:
        """Refuse observations that are not there."""
        missing = [k for k in keys if k not in self.obs]
        if missing:
            raise UserError(f"{self.source}: expected observation {missing[0]!r}, got {sorted(self.obs)}")

    def observation(self, keys: tuple[str, ...], rows: slice | np.ndarray | None = None) -> np.ndarray:
        """The low-dimensional observations `keys` concatenated, float32 (n, O), of `rows` (None: all N).

        One key without `rows` is the array itself, not a copy; O = 0 without keys. Raises `UserError` for unknown keys
        and for images.
        """
        self.check_has(keys)
        images = [k for k in keys if k in self.images]
        if images:
            raise UserError(f"{self.source}: observation {images[0]!r}: expected numbers, got images")
        if not keys:
            return np.zeros((len(self.actions_NA if rows is None else self.actions_NA[rows]), 0), np.float32)
        parts = [self.obs[k] if rows is None else self.obs[k][rows] for k in keys]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def split(self, name: str) -> np.ndarray:
        """Episode numbers of a split; every episode when the data has no such split."""
        return np.asarray(self.splits.get(name, np.arange(self.num_episodes)))

    def fingerprint(self) -> str:
        """sha256 (hex) of what a policy learns from: observations, actions, rewards, episode ends, splits and tasks.

        It depends neither on the file's name or date nor on what is only looked at (states, terminals, success).
        """
        h = hashlib.sha256()
        parts = {f"obs/{k}": v for k, v in self.obs.items()} | {
            "actions": self.actions_NA,
            "rewards": self.rewards_N,
            "episode_ends": np.asarray(self.episode_ends, np.int64),
            **{f"split/{k}": np.asarray(v, np.int64) for k, v in self.splits.items()},
        }
        if self.tasks:
            parts["tasks"] = np.frombuffer("\n".join(self.tasks).encode(), np.uint8)
        for name in sorted(parts):
            array = np.ascontiguousarray(parts[name])
            h.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            h.update(array.data)
        return h.hexdigest()


def check_finite(source: Path, name: str, array: np.ndarray, episode_ends: np.ndarray, first: int = 0) -> None:
    """Refuse nan and inf in `array`, whose rows `episode_ends` cuts into the episodes `first`, `first + 1`, ..."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    row = np.argwhere(~np.isfinite(array))[0][0]
    episode = first + int(np.searchsorted(episode_ends, row, side="right"))
    name = name.removeprefix("obs/")
    raise UserError(f"{source}: {name}: expected finite numbers, got nan or inf in episode {episode}")


def check_files(store: EpisodeStore, where: str) -> None:
    """Refuse a set that is not in several files, which cannot take turns."""
    if len(store.files) < 2:
        raise UserError(f"{where}: expected 0, since {store.source} is no folder of several files (OGBench's npz)")


def image_size(shape: Sequence[int]) -> tuple[int, int, int]:
    """(height, width, channels), checked to be that."""
    height, width, channels = map(int, shape)
    return height, width, channels


def format_shape(shape: tuple[int, ...]) -> str:
    """A shape for messages: "7", "96 x 96 x 3"."""
    return " x ".join(map(str, shape))


def check_matches_task(
    store: EpisodeStore, obs_shapes: Mapping[str, tuple[int, ...]], action_size: int, task: str
) -> None:
    """Refuse data whose observations or actions do not have the environment's sizes. obs_shapes: (size,) of numbers,
    (height, width, channels) of images."""
    for name, shape in obs_shapes.items():
        if name not in store.obs:
            raise UserError(
                f"{store.source}: observation {name!r} of environment {task!r} is missing; got {sorted(store.obs)}"
            )
        if store.obs[name].shape[1:] != shape:
            raise UserError(
                f"{store.source}: observation {name!r}: environment {task!r} has size {format_shape(shape)}, "
                f"the data has {format_shape(store.obs[name].shape[1:])}"
            )
    if store.actions_NA.shape[1] != action_size:
        raise UserError(
            f"{store.source}: actions: environment {task!r} has size {action_size}, "
            f"the data has {store.actions_NA.shape[1]}"
        )
