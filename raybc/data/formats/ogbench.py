"""OGBench's npz layout: flat `observations, actions, terminals [, qpos, qvel, button_states]`.

https://github.com/seohongpark/ogbench. The last row of a trajectory, where `terminals` is 1, is the state after the
last action and no transition; it is left out, as `ogbench.utils.load_dataset` does. Where another end flag
(`raybc.data.formats.flat`) cuts elsewhere, the file has D4RL's layout, and every row is a transition.

`NAME-val.npz` next to `NAME.npz` is the split `valid`. A folder of such files is read as one data set; `shards` lists
its files, for training on one at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raybc.data import npz
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, flat
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.formats.images import resembles_image
from raybc.data.npz import Npz
from raybc.files import replacing
from raybc.types import UserError

NAME = "ogbench"
DESCRIPTION = "an npz file with observations, actions, terminals, or a folder of such files"
KEYS = {"observations", "actions"}
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
    names = npz.npz_names(first[0]) if first else set()
    return names >= KEYS and bool(names & set(flat.KNOWN))


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


def _cuts(file: Npz) -> tuple[np.ndarray, np.ndarray, flat.Ends]:
    """The exclusive ends of the trajectories, int64 (E,), which rows are transitions, bool (n,), and the flags."""
    if not file.names & set(flat.KNOWN):
        raise UserError(f"{file.path}: expected the array 'terminals', or another end flag, got {sorted(file.names)}")
    name = next(n for n in flat.KNOWN if n in file.names)
    rows = len(file[name])
    found = flat.ends_of(file.names, lambda n: file[n].shape, lambda n: file[n], rows, file.path)
    ends = np.flatnonzero(found.last_N) + 1
    if is_flat(found):
        return ends, np.arange(rows) < ends[-1], found
    if not found.last_N[-1]:
        raise UserError(f"{file.path}: {name}: expected 1 in the last row, the end of a trajectory")
    if np.diff(ends, prepend=0).min() < 2:
        short = int(np.argmin(np.diff(ends, prepend=0)))
        raise UserError(f"{file.path}: episode {short}: expected at least one action and the state after it")
    return ends, ~found.last_N, found


def is_flat(found: flat.Ends) -> bool:
    """Whether a file has D4RL's layout: `terminals` alone do not say where its episodes end."""
    return found.terminal_N is None or bool((found.last_N & ~found.terminal_N).any())


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    train, valid = _files(path)
    done = 0
    # Image observations are the only ones, so they are read whether they are wanted or not.
    all_images = dataclasses.replace(wanted, images=True, needed=None)
    for shard in [*train, *valid]:
        file = Npz(shard)
        ends, keep, found = _cuts(file)
        named = {"observations": "observations", "actions": wanted.keys.action or "actions"}
        arrays = {key: _rows(file, name, len(keep)) for key, name in named.items()}
        states = [_rows(file, key, len(keep)) for key in STATES if wanted.states and key in file.names]
        name = "pixels" if resembles_image(arrays["observations"].shape, arrays["observations"].dtype) else "state"
        observations = all_images.observation(name, arrays["observations"], str(shard))
        rewards = _rows(file, "rewards", len(keep)) if is_flat(found) and "rewards" in file.names else None
        flat_terminals = found.terminal_N if is_flat(found) else None
        for start, end, lengths in base.blocks(ends):
            rows = np.flatnonzero(keep[start:end]) + start
            yield EpisodeChunk(
                name=base.named(done, len(lengths)) + (f" ({shard.name})" if path.is_dir() else ""),
                obs={} if observations is None else {name: observations[rows]},
                actions=arrays["actions"][rows],
                lengths=lengths if is_flat(found) else tuple(n - 1 for n in lengths),
                rewards=None if rewards is None else rewards[rows],
                terminals=None if flat_terminals is None else flat_terminals[rows],
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
    is the last observation again; rewards, instructions, success and other splits are lost. Raises `UserError` for
    images beside other observations."""
    if store.images and len(store.obs) > 1:
        raise UserError(
            f"{path}: ogbench: expected numbers or one camera, got {', '.join(store.obs)}; choose some with "
            "--obs_keys, or another --format"
        )
    if _valid(path).exists():
        raise UserError(f"{_valid(path)}: exists, and would be read as the split valid; choose another place")
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
    observations = store.obs[store.images[0]] if store.images else store.observation(tuple(store.obs))
    arrays = {"observations": observations[rows], "actions": store.actions_NA[rows], "terminals": terminals}
    if store.states_NS is not None:
        arrays["qpos"] = store.states_NS[rows]
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)
