"""Arrays of all episodes one after another and `episode_ends`: Diffusion Policy's zarr (folder or zip), and npz.

https://github.com/real-stanford/diffusion_policy. zarr: `data/{action, ...}` and `meta/episode_ends`; npz: the same
names without folders. `action` (or `actions`) is the action, `reward` (or `rewards`) the reward; every other array with
a row for each step is an observation.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raybc.data import npz
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers, flat
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.formats.images import is_image
from raybc.data.npz import Npz
from raybc.data.zarr2 import META, Zarr
from raybc.files import replacing, write_json
from raybc.types import UserError

NAME = "episode_ends"
DESCRIPTION = "an npz with action and episode_ends, or a zarr folder or zip with data/action and meta/episode_ends"
ACTION, REWARD = ("action", "actions"), ("reward", "rewards")
ENDS = "episode_ends"
SPLIT = "split_"


class _Arrays:
    """The arrays by their names without folders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source: Npz | Zarr
        if _is_zarr(path):
            with containers.readable(path, "zarr"):
                self.source = Zarr(path)
            self._full = {n.split("/")[-1]: n for n in self.source.names if n.split("/")[0] in ("data", "meta")}
        elif path.exists():
            self.source = Npz(path)
            self._full = {n: n for n in self.source.names}
        else:
            raise UserError(f"{path}: expected an npz or zarr file with {ENDS}, found none")
        self.names = sorted(self._full)

    def first(self, names: tuple[str, ...]) -> str | None:
        """The first of `names` that is an array; None where there is none."""
        return next((n for n in names if n in self._full), None)

    def any(self, name: str) -> np.ndarray:
        """An array of any dtype."""
        if name not in self._full:
            raise UserError(f"{self.path}: expected the array {name!r}, got {self.names}")
        with containers.readable(self.path, "zarr or npz"):
            return self.source[self._full[name]]

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.any(name)
        if array.dtype.kind not in "fiub":
            raise UserError(f"{self.path}: {name}: expected numbers, got dtype {array.dtype}")
        return array


def _is_zarr(path: Path) -> bool:
    if path.is_dir():
        return any((path / name / META).is_file() for name in (f"meta/{ENDS}", ENDS))
    if containers.magic(path, 4) != npz.ZIP_MAGIC:
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith(f"{ENDS}/{META}") for name in file.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def matches(path: Path) -> bool:
    """Whether `path` is an npz or zarr file with `episode_ends`."""
    return _is_zarr(path) or ENDS in npz.npz_names(path)


def count(path: Path) -> int:
    """Number of episodes."""
    return len(_Arrays(path)[ENDS])


def about(path: Path) -> DatasetInfo:
    """The splits, in arrays `split_NAME` as raybc writes them."""
    arrays = _Arrays(path)
    splits = {name.removeprefix(SPLIT): arrays[name] for name in arrays.names if name.startswith(SPLIT)}
    for name, members in splits.items():
        if members.ndim != 1 or members.dtype.kind not in "iu":
            raise UserError(f"{path}: {SPLIT}{name}: expected numbers of episodes, got {members.dtype} {members.shape}")
    return DatasetInfo(splits=splits)


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    arrays = _Arrays(path)
    ends = arrays[ENDS]
    action, reward = arrays.first((wanted.keys.action,) if wanted.keys.action else ACTION), arrays.first(REWARD)
    if action is None:
        raise UserError(f"{path}: expected the array {wanted.keys.action or ACTION[0]!r}, got {arrays.names}")
    actions = arrays[action]
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
        raise UserError(f"{path}: {ENDS}: expected whole numbers (E,), got shape {ends.shape} of {ends.dtype}")
    ends = ends.astype(np.int64)
    if np.any(np.diff(ends, prepend=0) <= 0) or ends[-1] != len(actions):
        raise UserError(
            f"{path}: {ENDS}: expected rising numbers up to {len(actions)}, the steps of {action}, got {ends}"
        )
    obs = {}
    for name in arrays.names:
        if name in (ENDS, action, reward):
            continue
        array = arrays.any(name)
        if name.startswith(SPLIT):
            continue
        if array.ndim and len(array) == len(actions):
            observed = wanted.observation(name, array, str(path))
            if observed is not None and (wanted.image(name) or not is_image(observed)):
                obs[name] = observed
        elif not array.ndim or len(array) != len(ends):  # arrays with a row for each episode are ignored
            raise UserError(f"{path}: {name}: expected {len(actions)} rows as in {action}, got shape {array.shape}")
    rewards = arrays[reward] if reward is not None else None
    terminals = _flag(obs)
    done = 0
    for start, end, lengths in base.blocks(ends):
        yield EpisodeChunk(
            name=base.named(done, len(lengths)),
            obs={name: array[start:end] for name, array in obs.items()},
            actions=actions[start:end],
            lengths=lengths,
            rewards=None if rewards is None else rewards[start:end],
            terminals=None if terminals is None else terminals[start:end],
        )
        done += len(lengths)


def _flag(obs: dict[str, np.ndarray]) -> np.ndarray | None:
    """bool (N,): where an end flag that is recorded beside the observations is set, for `verify`; None without one."""
    flags = [
        v.reshape(len(v), -1)[:, 0] for k, v in obs.items() if k in (*flat.TERMINAL, *flat.LAST) and v.size == len(v)
    ]
    found = [v for v in flags if np.isin(v, (0, 1)).all()]
    return np.logical_or.reduce([v.astype(bool) for v in found]) if found else None


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write an npz file, or an uncompressed zarr folder where the name ends in .zarr. Instructions, success and states
    are lost."""
    arrays = {**store.obs, "action": store.actions_NA, "reward": store.rewards_N, ENDS: store.episode_ends}
    arrays |= {f"{SPLIT}{name}": np.asarray(episodes, np.int64) for name, episodes in store.splits.items()}
    with replacing(path) as temporary:
        if path.suffix != ".zarr":
            with temporary.open("wb") as handle:
                np.savez(handle, **arrays)
            return
        for name, array in arrays.items():
            _write_array(temporary / ("meta" if name == ENDS or name.startswith(SPLIT) else "data") / name, array)


def _write_array(folder: Path, array: np.ndarray) -> None:
    folder.mkdir(parents=True)
    meta = {"zarr_format": 2, "shape": array.shape, "chunks": array.shape, "dtype": array.dtype.str}
    write_json(folder / META, {**meta, "compressor": None, "filters": None, "fill_value": 0, "order": "C"})
    (folder / ".".join("0" * array.ndim)).write_bytes(np.ascontiguousarray(array).tobytes())
