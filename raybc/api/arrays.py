"""`raybc.from_arrays`: demonstrations that are arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from raybc.api.datasets import Dataset
from raybc.data.arrays import write_arrays
from raybc.data.store import open_store


def from_arrays(
    obs: Any,
    actions: Any,
    episode_ends: Any = None,
    *,
    rewards: Any = None,
    dones: Any = None,
    success: Any = None,
    instructions: str | Sequence[str] = (),
    splits: Mapping[str, Any] | None = None,
    frequency: float | None = None,
    action_range: tuple[Any, Any] | None = None,
    path: str | PathLike[str] | None = None,
) -> Dataset:
    """One's own arrays as a data set that every function and command reads.

    >>> import numpy as np
    >>> import raybc
    >>> obs = {"joints": np.zeros((30, 7)), "front": np.zeros((30, 48, 64, 3), np.uint8)}
    >>> data = raybc.from_arrays(obs, np.zeros((30, 7)), episode_ends=[12, 30], frequency=20, path=folder / "mine")
    >>> len(data), data[1]["obs"]["front"].shape
    (2, (18, 48, 64, 3))

    A row is a time step: the observation before an action, and that action. Instead of flat arrays, `obs`, `actions`,
    `rewards` and `dones` may be lists with an entry for each episode (`episode_ends` is left out then).

    Args:
        obs: numbers (N, O), which are called "state", or a mapping of names to arrays; images are uint8 (N, H, W, C).
        actions: numbers (N, A), in physical units, as they were sent to the robot.
        episode_ends: whole numbers (E,), the exclusive end of each episode; the last one is N.
        rewards: numbers (N,); None: zeros.
        dones: 0 or 1 (N,), 1 where the environment (not a time limit) ended the episode.
        success: 0 or 1 (E,), whether each episode succeeded; None: unknown.
        instructions: a text for all episodes, or one for each.
        splits: "train", "valid" -> numbers of episodes.
        frequency: steps per second (Hz).
        action_range: the lowest and the highest action, numbers or (A,) each.
        path: the folder to write; None: `arrays/` below raybc's cache ($RAYBC_HOME, else ~/.cache/raybc), with a name
            that is a hash of the contents, so that the same arrays are written once.

    Raises `raybc.types.UserError` for arrays that do not fit each other, for nan and inf, for anything but numbers, and
    where `path` holds something else. Nothing is overwritten.
    """
    found = write_arrays(
        obs, actions, episode_ends, rewards=rewards, dones=dones, success=success, instructions=instructions,
        splits=splits, frequency=frequency, action_range=action_range, path=path,
    )  # fmt: skip
    return Dataset(found, open_store(found))
