"""D4RL's HDF5 layout: flat `observations, actions, rewards, terminals, timeouts`.

https://github.com/Farama-Foundation/D4RL. An episode ends where `terminals` or `timeouts` is 1, or a flag of another
writer (`raybc.data.formats.flat`). Rows after the last end
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
from raybc.data.formats import base, containers, flat
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.formats.images import resembles_image
from raybc.files import replacing
from raybc.types import UserError

NAME = "d4rl"
DESCRIPTION = "an HDF5 file with observations, actions, rewards, terminals"
KEYS = ("observations", "actions", "rewards")
MASK = "mask"
#: Share of rows behind the last end from which on dropping them is noted.
MOST_DROPPED = 0.1
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
        ends = _ends(file, path, len(containers.hdf5_array(file, "actions", str(path))))
        return None if ends.only_terminal else int(ends.last_N.sum())


def about(path: Path) -> DatasetInfo:
    """Rewards of 0 and 1 are success; splits in `mask/` as raybc writes them."""
    with containers.opened_hdf5(path, "D4RL HDF5") as file:
        names = containers.hdf5_names_in(file, MASK)
        splits = {n.split("/")[1]: containers.hdf5_array(file, n, str(path))[()] for n in sorted(names)}
    for name, members in splits.items():
        if members.ndim != 1 or members.dtype.kind not in "iu":
            raise UserError(f"{path}: mask/{name}: expected numbers of episodes, got {members.dtype} {members.shape}")
    return DatasetInfo(splits=splits, reward_is_success=True)


def _ends(file: Any, path: Path, rows: int, step_limit: int = 0) -> flat.Ends:
    names = [name for name in file if isinstance(file[name], h5py.Dataset)]
    return flat.ends_of(
        names, lambda n: file[n].shape, lambda n: file[n][()] if n not in flat.KNOWN else
        containers.hdf5_array(file, n, str(path))[()], rows, path, step_limit,
    )  # fmt: skip


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    with containers.opened_hdf5(path, "D4RL HDF5") as file:
        observed = _observations(file, path, wanted)
        arrays = {key: containers.hdf5_array(file, key, str(path)) for key in KEYS if key != "observations"}
        if wanted.keys.action:
            arrays["actions"] = containers.hdf5_array(file, wanted.keys.action, str(path))
        rows = len(next(iter(observed.values()), arrays["actions"]))
        for key, array in {**observed, **arrays}.items():
            if array.ndim == 0 or len(array) != rows:
                raise UserError(f"{path}: {key}: expected {rows} rows as in observations, got shape {array.shape}")
        if not set(flat.KNOWN) & set(file):
            raise UserError(f"{path}: expected the array 'terminals', or another end flag, got {sorted(file)}")
        found = _ends(file, path, rows, wanted.step_limit)
        terminals = found.terminal_N
        ends = np.flatnonzero(found.last_N) + 1
        if rows - ends[-1] > rows * MOST_DROPPED:
            wanted.remarks.note("rows", "", f"the last {rows - ends[-1]} of {rows} rows belong to no episode that ends")
        states = _states(file, path, observed.get("state", arrays["actions"])) if wanted.states else []
        done = 0
        for start, end, lengths in base.blocks(ends):
            yield EpisodeChunk(
                name=base.named(done, len(lengths)),
                obs={name: array[start:end] for name, array in observed.items()},
                actions=arrays["actions"][start:end],
                lengths=lengths,
                rewards=_column(arrays["rewards"][start:end]),
                terminals=None if terminals is None else terminals[start:end],
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


def _observations(file: Any, path: Path, wanted: ReadOptions) -> dict[str, Any]:
    """Name -> array (n, ...), not read yet: `state`, or the members of a group under their names. Images of a group
    only where they are wanted."""
    if not isinstance(file.get("observations"), h5py.Group):
        return {"state": containers.hdf5_array(file, "observations", str(path))}
    found = {}
    for name, array in containers.hdf5_members(file["observations"], f"{path}: observations"):
        if array.dtype.kind not in "fiub":
            wanted.observation(name, array, str(path))  # notes that text is left out
        elif wanted.image(name) or not resembles_image(array.shape, array.dtype):
            found[name] = array
    return found


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write an HDF5 file. Observations are concatenated; instructions and success are lost. Raises `UserError` for
    images."""
    if store.images:
        raise UserError(f"{path}: d4rl: expected no images, got {', '.join(store.images)}; choose another --format")
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
        for name, episodes in store.splits.items():
            file[f"{MASK}/{name}"] = np.asarray(episodes, np.int64)
