"""`EpisodeStore`: demonstrations as flat read-only arrays.

Letters: N transitions of all episodes, E episodes, A action dim, S size of a simulator state; H, W, C height, width and
channels of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raybc.data.fingerprints import Bar, fingerprint_of
from raybc.envs.variant import split
from raybc.strict import did_you_mean, listed
from raybc.types import UserError

#: Names of splits that are held out from training, and those of them that the validation loss is measured on.
HELD_OUT = ("valid", "val", "validation", "test", "eval", "holdout", "held_out")
VALIDATION = HELD_OUT[:3]


@dataclass(frozen=True)
class Note:
    """A remark about a data set: what was left out, assumed or converted in reading it."""

    kind: str
    """What it is about: "image" and "text" that are not read, "converted" images, "splits" with repetitions, the "rest"
    as training split, "rows" after the last end, or "rewards" that are not recorded."""
    key: str
    """The observation or the split."""
    text: str
    """The remark, one line."""


@dataclass(frozen=True)
class SkippedEpisode:
    """An episode that was left out because it cannot be read, or differs from the others."""

    number: int
    """Its place in the data set on disk."""
    name: str
    """Its name there ("demo_3")."""
    reason: str
    """What is wrong with it."""


@dataclass(frozen=True)
class EpisodeStore:
    """Demonstrations in physical units, as read-only arrays of all episodes one after another.

    Raises `UserError` for arrays that do not fit each other, and for nan and inf.
    """

    obs: Mapping[str, np.ndarray]
    """Name -> float32 (N, size), or uint8 (N, H, W, C) for images; images may be decoded when they are indexed
    (`LazyImages`)."""
    actions_NA: np.ndarray
    """float32 (N, A)."""
    rewards_N: np.ndarray
    """float32 (N,); zeros where the format has no rewards."""
    episode_ends: np.ndarray
    """int64 (E,): the exclusive end of each episode in the flat arrays."""
    splits: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name ("train", "valid") -> episode numbers, int64."""
    env_args: Mapping[str, Any] = field(default_factory=dict)
    """The environment that the data were recorded in, in robomimic's layout (JSON); {} where it is not recorded."""
    source: Path = Path()
    """Where the data were read from, for messages."""
    terminals_N: np.ndarray | None = None
    """bool (N,): whether the environment (not a time limit) ended the episode; None where it is not recorded."""
    states_NS: np.ndarray | None = None
    """float64 (N, S): the simulator's state before each action; None where it is not recorded, or not read."""
    tasks: tuple[str, ...] = ()
    """An instruction for each episode, or ()."""
    success_E: np.ndarray | None = None
    """bool (E,); None where success is not known."""
    action_range: tuple[np.ndarray, np.ndarray] | None = None
    """Lowest and highest action that the data set declares, float32 (A,) each."""
    files: tuple[int, ...] = ()
    """Of a data set in several files: the exclusive end of each, as a number of training episodes."""
    notes: tuple[Note, ...] = ()
    """What was left out, assumed or converted in reading."""
    skipped: tuple[SkippedEpisode, ...] = ()
    """Episodes that were left out on request; numbers of episodes here are those without them."""
    frequency: float | None = None
    """Steps per second (Hz); None where it is not recorded."""
    checked: InitVar[bool] = False
    """Whether all values are already known to be finite, as in a converted store; otherwise they are checked here."""

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
        if self.frequency is not None and not 0 < self.frequency < np.inf:
            raise UserError(f"{self.source}: frequency: expected a number above 0 (Hz), got {self.frequency}")
        if self.action_range is not None:
            low, high = self.action_range
            size = self.actions_NA.shape[1:]
            if low.shape != size or high.shape != size or not (low <= high).all():
                raise UserError(f"{self.source}: action range: expected low <= high of shape {size}: {low}, {high}")

    @property
    def num_episodes(self) -> int:
        """E."""
        return len(self.episode_ends)

    @property
    def episode_starts(self) -> np.ndarray:
        """int64 (E,): the first transition of each episode."""
        return np.concatenate([[0], self.episode_ends[:-1]])

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the observations that are images."""
        return tuple(name for name, array in self.obs.items() if array.dtype == np.uint8)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array with a row for each transition, by its name in messages and on disk ("obs/arm", "actions")."""
        more = {"terminals": self.terminals_N, "states": self.states_NS}
        return {
            **{f"obs/{name}": array for name, array in self.obs.items()},
            "actions": self.actions_NA,
            "rewards": self.rewards_N,
            **{name: array for name, array in more.items() if array is not None},
        }

    def remarks(self) -> list[str]:
        """What was left out, assumed or skipped in reading, one line each, for people."""
        kinds = ("image", "splits", "rest", "rows", "text")
        said = [f"{n.key}: {n.text}" if n.key else n.text for n in self.notes if n.kind in kinds]
        return said + [f"left out: {e.name}: {e.reason}" for e in self.skipped]

    def check_has(self, keys: Sequence[str]) -> None:
        """Raise `UserError` for the first of `keys` that is not an observation."""
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
            raise UserError(f"{self.source}: observation {images[0]!r}: expected low-dimensional ones, got images")
        if not keys:
            return np.zeros((len(self.actions_NA if rows is None else self.actions_NA[rows]), 0), np.float32)
        parts = [self.obs[k] if rows is None else self.obs[k][rows] for k in keys]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def split(self, name: str) -> np.ndarray:
        """Episode numbers of a split; all episodes where the data set has no such split."""
        return np.asarray(self.splits.get(name, np.arange(self.num_episodes)))

    def fingerprint(self, keys: Collection[str] | None = None, bar: Bar | None = None) -> str:
        """sha256 (hex) of what a policy learns from: observations, actions, rewards, episode ends, splits and tasks.

        It depends neither on the format nor on the file's name or date, nor on states, terminals and success.

        keys: the observations to include; None: all. bar: shows progress where images of videos must be read.
        """
        chosen = {k: v for k, v in self.obs.items() if keys is None or k in keys}
        parts = {f"obs/{k}": v for k, v in chosen.items()} | {
            "actions": self.actions_NA,
            "rewards": self.rewards_N,
            "episode_ends": np.asarray(self.episode_ends, np.int64),
            **{f"split/{k}": np.asarray(v, np.int64) for k, v in self.splits.items()},
        }
        if self.tasks:
            parts["tasks"] = np.frombuffer("\n".join(self.tasks).encode(), np.uint8)
        return fingerprint_of(parts, bar)


def check_finite(source: Path, name: str, array: np.ndarray, episode_ends: np.ndarray, first: int = 0) -> None:
    """Raise `UserError` for nan and inf in `array` (n, ...).

    name: of the array, for the message. episode_ends: exclusive end of each episode in `array`. first: number of the
    first of these episodes.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    row = np.argwhere(~np.isfinite(array))[0][0]
    episode = first + int(np.searchsorted(episode_ends, row, side="right"))
    name = name.removeprefix("obs/")
    raise UserError(f"{source}: {name}: expected finite numbers, got nan or inf in episode {episode}")


def check_files(store: EpisodeStore, where: str) -> None:
    """Raise `UserError`, beginning with `where`, for data in a single file, which cannot be rotated through."""
    if len(store.files) < 2:
        raise UserError(f"{where}: expected 0, since {store.source} is no folder of several files (OGBench's npz)")


def image_size(shape: Sequence[int]) -> tuple[int, int, int]:
    """`shape` as (height, width, channels); `ValueError` for another number of dimensions."""
    height, width, channels = map(int, shape)
    return height, width, channels


def format_shape(shape: tuple[int, ...]) -> str:
    """A shape for messages: "7", "96 x 96 x 3"."""
    return " x ".join(map(str, shape))


def check_matches_task(
    store: EpisodeStore, obs_shapes: Mapping[str, tuple[int, ...]], action_size: int, task: str
) -> None:
    """Raise `UserError` for data whose observations or actions do not have the shapes of the environment `task`.

    obs_shapes: observation -> (size,), or (height, width, channels) of an image.
    """
    for name, shape in obs_shapes.items():
        if not store.obs:
            raise UserError(
                f"{store.source}: holds states and no observations; make them: python -m raybc.data convert "
                f"{store.source} --env_name {task} --out FOLDER, and train on that folder"
            )
        if name not in store.obs:
            raise UserError(
                f"{store.source}: observation {name!r} of environment {task!r} is missing: "
                f"{did_you_mean(name, store.obs)}; it has {listed(name, sorted(store.obs))}"
            )
        found = store.obs[name].shape[1:]
        if found != shape and len(found) == len(shape) == 3 and found[2] == shape[2]:
            base = split(task)[0]
            raise UserError(
                f"{store.source}: images {name!r}: environment {task!r} has {format_shape(shape)}, the data "
                f"{format_shape(found)}. Use the data's size, --env_name {base}@{found[0]}x{found[1]}, or convert the "
                f"data: raybc data convert {store.source} --images --image_height {shape[0]} --image_width {shape[1]} "
                "--out FOLDER"
            )
        if found != shape:
            raise UserError(
                f"{store.source}: observation {name!r}: environment {task!r} has size {format_shape(shape)}, "
                f"the data has {format_shape(store.obs[name].shape[1:])}"
            )
    if store.actions_NA.shape[1] != action_size:
        raise UserError(
            f"{store.source}: actions: environment {task!r} has size {action_size}, "
            f"the data has {store.actions_NA.shape[1]}"
        )
