"""OGBench's npz layout: flat `observations, actions, terminals [, qpos, qvel, button_states]`.

https://github.com/seohongpark/ogbench. The last row of a trajectory, where `terminals` is 1, is the state after the
last action and no transition; it is left out, as `ogbench.utils.load_dataset` does. `NAME-val.npz` next to `NAME.npz`
is the split `valid`. A folder of such files is read as one data set; `shards` lists its files, for training on one at a
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.formats.containers import Npz
from raybc.files import replacing
from raybc.types import UserError

NAME = "ogbench"
DESCRIPTION = "an npz file with observations, actions, terminals, or a folder of such files"
KEYS = {"observations", "actions", "terminals"}
STATES = ("qpos", "qvel", "button_states")
VALID = "-val.npz"


def shards(path: Path) -> list[Path]:
    """The training files in order: the file itself, or all of a folder."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.glob("*.npz") if not p.name.endswith(VALID))


def _valid(shard: Path) -> Path:
    return shard.with_name(shard.name.removesuffix(".npz") + VALID)


def _files(path: Path) -> tuple[list[Path], list[Path]]:
    train = shards(path)
    if path.is_dir() and not train:
        raise UserError(f"{path}: expected npz files of OGBench, found none")
    return train, [_valid(p) for p in train if _valid(p).exists()]


def matches(path: Path) -> bool:
    """Whether `path` is an npz file with observations, actions and terminals, or a folder of such files."""
    first = shards(path)[:1]
    return bool(first) and containers.npz_names(first[0]) >= KEYS


def count(path: Path) -> int:
    """Number of episodes, for training and for validation."""
    return sum(len(_cuts(Npz(p))[0]) for files in _files(path) for p in files)


def about(path: Path) -> DatasetInfo:
    """The split `valid`, if there are files for it, and the files of a folder."""
    train, valid = _files(path)
    if not valid and len(train) == 1:
        return DatasetInfo()
    counts = [[len(_cuts(Npz(p))[0]) for p in files] for files in (train, valid)]
    count, total = sum(counts[0]), sum(counts[0]) + sum(counts[1])
    splits = {"train": np.arange(count), "valid": np.arange(count, total)} if valid else {}
    return DatasetInfo(splits=splits, files=tuple(np.cumsum(counts[0]).tolist()) if len(train) > 1 else ())


def _cuts(file: Npz) -> tuple[np.ndarray, np.ndarray]:
    """The exclusive ends of the trajectories, int64 (E,), and which rows are transitions, bool (n,)."""
    terminals = file["terminals"]
    if terminals.ndim != 1 or not np.isin(terminals, (0, 1)).all():
        raise UserError(f"{file.path}: terminals: expected zeros and ones (n,), got shape {terminals.shape}")
    if not len(terminals) or terminals[-1] != 1:
        raise UserError(f"{file.path}: terminals: expected 1 in the last row, the end of a trajectory")
    ends = np.flatnonzero(terminals) + 1
    if np.diff(ends, prepend=0).min() < 2:
        short = int(np.argmin(np.diff(ends, prepend=0)))
        raise UserError(f"{file.path}: episode {short}: expected at least one action and the state after it")
    return ends, terminals == 0


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    train, valid = _files(path)
    done = 0
    for shard in [*train, *valid]:
        file = Npz(shard)
        ends, keep = _cuts(file)
        arrays = {key: _rows(file, key, len(keep)) for key in ("observations", "actions")}
        states = [_rows(file, key, len(keep)) for key in STATES if wanted.states and key in file.names]
        observations = arrays["observations"]
        for start, end, lengths in base.blocks(ends):
            rows = np.flatnonzero(keep[start:end]) + start
            yield EpisodeChunk(
                name=base.named(done, len(lengths)) + (f" ({shard.name})" if path.is_dir() else ""),
                # Image observations are the only ones, so they are read whether they are wanted or not.
                obs={"pixels" if base.is_image(observations) else "state": observations[rows]},
                actions=arrays["actions"][rows],
                lengths=tuple(n - 1 for n in lengths),
                states=np.concatenate([s[rows] for s in states], axis=1) if states else None,
            )
            done += len(lengths)


def _rows(file: Npz, key: str, count: int) -> np.ndarray:
    array = file[key]
    if array.ndim == 0 or len(array) != count:
        raise UserError(f"{file.path}: {key}: expected {count} rows as in terminals, got shape {array.shape}")
    return array


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write an npz file, and one for the split `valid`. The state after the last action, which a store does not have,
    is the last observation again; rewards, instructions and success are lost."""
    valid = store.splits.get("valid", np.zeros(0, np.int64))
    train = np.setdiff1d(np.arange(store.num_episodes), valid)
    for target, episodes in ((path, train), (_valid(path), valid)):
        if len(episodes):
            _write(target, store, episodes)


def _write(path: Path, store: EpisodeStore, episodes: np.ndarray) -> None:
    starts, ends = store.episode_starts, store.episode_ends
    rows = np.concatenate([[*range(starts[e], ends[e]), ends[e] - 1] for e in episodes])
    terminals = np.zeros(len(rows), np.float32)
    terminals[np.cumsum(ends[episodes] - starts[episodes] + 1) - 1] = 1
    observations = store.obs["pixels"] if "pixels" in store.obs else store.observation(tuple(store.obs))
    arrays = {"observations": observations[rows], "actions": store.actions_NA[rows], "terminals": terminals}
    if store.states_NS is not None:
        arrays["qpos"] = store.states_NS[rows]
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)
