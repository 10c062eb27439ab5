"""D4RL's HDF5 layout: flat `observations, actions, rewards, terminals, timeouts`.

https://github.com/Farama-Foundation/D4RL. An episode ends where `terminals` or `timeouts` is 1. Rows after the last end
are dropped, as `d4rl.sequence_dataset` does (`d4rl.qlearning_dataset` keeps them as transitions). Files without
`timeouts` (some of version 0) were cut at the environment's step limit, which they do not contain:
`ReadOptions.step_limit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.files import replacing
from raybc.types import UserError

NAME = "d4rl"
DESCRIPTION = "an HDF5 file with observations, actions, rewards, terminals"
KEYS = ("observations", "actions", "rewards", "terminals")
STATES = ("infos/qpos", "infos/qvel")
#: State of the task besides positions and velocities, by task: the first of these that is complete. (The hammer's
#: `target_pos` follows from `board_pos`.)
TASK_STATES = (
    ("infos/goal",),
    ("infos/desired_orien",),
    ("infos/door_body_pos",),
    ("infos/board_pos",),
    ("infos/obj_pos", "infos/target_pos"),
)


def matches(path: Path) -> bool:
    """Whether `path` is an HDF5 file with observations and actions."""
    return {"observations", "actions"} <= containers.hdf5_names(path)


def count(path: Path) -> int | None:
    """Number of episodes; None for old files, where it depends on the environment's step limit."""
    with containers.opened_hdf5(path, "D4RL HDF5") as file:
        flags = [containers.hdf5_array(file, key, str(path))[()] for key in ("terminals", "timeouts") if key in file]
        return int(np.logical_or(*flags).sum()) if len(flags) == 2 else None


def about(path: Path) -> DatasetInfo:
    """Rewards of 0 and 1 are success; the format declares nothing."""
    return DatasetInfo(reward_is_success=True)


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    with containers.opened_hdf5(path, "D4RL HDF5") as file:
        arrays = {key: containers.hdf5_array(file, key, str(path)) for key in KEYS}
        rows = len(arrays["observations"])
        for key, array in arrays.items():
            if array.ndim == 0 or len(array) != rows:
                raise UserError(f"{path}: {key}: expected {rows} rows as in observations, got shape {array.shape}")
        terminals = _flags(arrays["terminals"][()], path, "terminals")
        cuts = terminals.copy()
        if "timeouts" in file:
            timeouts = _flags(containers.hdf5_array(file, "timeouts", str(path))[()], path, "timeouts")
            if len(timeouts) != rows:
                raise UserError(f"{path}: timeouts: expected {rows} rows as in observations, got {len(timeouts)}")
            cuts |= timeouts
        elif wanted.step_limit:
            cuts = _cut_at(cuts, wanted.step_limit)
        ends = np.flatnonzero(cuts) + 1
        if not len(ends):
            raise UserError(
                f"{path}: expected at least one episode that ends in terminals or timeouts, got none"
                + ("" if "timeouts" in file else " (there are no timeouts; pass the environment's step_limit)")
            )
        states = _states(file, path, arrays["observations"]) if wanted.states else []
        done = 0
        for start, end, lengths in base.blocks(ends):
            yield EpisodeChunk(
                name=base.named(done, len(lengths)),
                obs={"state": arrays["observations"][start:end]},
                actions=arrays["actions"][start:end],
                lengths=lengths,
                rewards=_column(arrays["rewards"][start:end]),
                terminals=terminals[start:end],
                states=np.concatenate([s[start:end] for s in states], axis=1) if states else None,
            )
            done += len(lengths)


def _states(file: Any, path: Path, observations: Any) -> list[Any]:
    """The arrays (n, ...), not read yet, that make up states: qpos, qvel and the state of the task."""
    present = containers.hdf5_names_in(file, "infos")
    own = next((keys for keys in TASK_STATES if set(keys) <= present), ())
    states = [containers.hdf5_array(file, key, str(path)) for key in (*STATES, *own) if key in present]
    for key, array in zip((k for k in (*STATES, *own) if k in present), states, strict=True):
        if len(array) != len(observations):
            raise UserError(f"{path}: {key}: expected {len(observations)} rows as in observations, got {len(array)}")
    # In mazes the observations are qpos and qvel, and the ant's recorder wrote infos after the step.
    if "infos/goal" in own and len(states) == 3 and observations.shape[1] == sum(s.shape[1] for s in states[:2]):
        return [observations, states[2]]
    return states


def _column(array: np.ndarray) -> np.ndarray:
    """(n, 1), as some files have it, as (n,)."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _flags(array: np.ndarray, path: Path, key: str) -> np.ndarray:
    array = _column(array)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise UserError(f"{path}: {key}: expected zeros and ones (n,), got shape {array.shape} of {array.dtype}")
    return array.astype(bool)


def _cut_at(cuts: np.ndarray, limit: int) -> np.ndarray:
    """Also cut every episode after `limit` steps."""
    cuts, start = cuts.copy(), 0
    for end in [*(np.flatnonzero(cuts) + 1).tolist(), len(cuts)]:
        cuts[start + limit - 1 : end : limit] = True
        start = end
    return cuts


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write an HDF5 file. Observations are concatenated; splits, instructions and success are lost."""
    n = len(store.actions_NA)
    terminals = store.terminals_N if store.terminals_N is not None else np.zeros(n, bool)
    last = np.zeros(n, bool)
    last[store.episode_ends - 1] = True
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["observations"] = store.observation(tuple(store.obs))
        file["actions"], file["rewards"] = store.actions_NA, store.rewards_N
        file["terminals"], file["timeouts"] = terminals, last & ~terminals
        if store.states_NS is not None:
            file[STATES[0]] = store.states_NS
