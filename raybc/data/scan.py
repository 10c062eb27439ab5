"""Reading a data set in blocks, for what has to see everything without holding it in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.data import formats
from raybc.data.adapt import added
from raybc.data.formats import base
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, Gathered, ReadOptions
from raybc.data.formats.options import Keys, Remarks
from raybc.data.load import step_limit_of
from raybc.data.names import obtain, resolve
from raybc.data.splits import held_out, resolved_splits
from raybc.registry import parse_env_name
from raybc.strict import did_you_mean
from raybc.types import UserError


@dataclass(frozen=True)
class Block:
    """Whole episodes, n transitions in all."""

    first: int
    """Number of the first episode."""
    lengths: tuple[int, ...]
    """Steps of each episode."""
    arrays: Mapping[str, np.ndarray]
    """Name, as in `EpisodeStore.arrays`, -> rows (n, ...); values may be nan or inf."""

    def episodes(self) -> Iterator[tuple[int, slice]]:
        """(number, rows in this block) of each episode."""
        end = 0
        for i, length in enumerate(self.lengths):
            yield self.first + i, slice(end, end + length)
            end += length

    def rows_of(self, episodes: Container[int]) -> np.ndarray:
        """Which rows belong to `episodes`, bool (n,)."""
        kept = [number in episodes for number in range(self.first, self.first + len(self.lengths))]
        return np.repeat(np.array(kept, bool), self.lengths)


@dataclass(frozen=True)
class Source:
    """A data set on disk."""

    path: Path
    """File or folder."""
    format: str
    """A key of `raybc.data.formats.FORMATS`."""
    task: str = ""
    """The task whose observations are added to the recorded ones; "" for none."""
    keys: Keys = formats.NO_KEYS
    """Arrays that are chosen by hand."""

    def scan(self, each: Callable[[Block], None], wanted: ReadOptions | None = None) -> tuple[Gathered, DatasetInfo]:
        """Call `each` with every block in order, and return what is known about the whole data set.

        Names and shapes are checked as in reading (`UserError`); whether values are finite is not.
        """
        chosen = formats.get(self.format)
        wanted = wanted or ReadOptions()
        wanted = dataclasses.replace(wanted, step_limit=step_limit_of(self.task, self.format), keys=self.keys)
        sink = _Blocks(self.task, each)
        gathered = base.gather(sink.watch(base.parts_of(chosen, self.path, wanted)), self.path, sink, wanted)
        return gathered, base.about_of(chosen, self.path)

    def split(self, name: str) -> frozenset[int]:
        """Episode numbers of a split. Raises `UserError` for an empty split and, with similar names, for an unknown
        one."""
        splits = dict(base.about_of(formats.get(self.format), self.path).splits)
        if name == "train" and name not in splits and held_out(splits):
            total = formats.count(self.path, self.format)
            if total is None:
                total = len(self.scan(lambda _: None)[0].episode_ends)
            splits = resolved_splits(splits, total, np.zeros(0, np.int64), self.path, Remarks())
        if name not in splits:
            known = did_you_mean(name, splits) if splits else "the data have no splits"
            raise UserError(f"{self.path}: unknown split {name!r}: {known}")
        if not len(splits[name]):
            raise UserError(f"{self.path}: split {name!r}: expected at least one episode, got none")
        return frozenset(splits[name].tolist())


def source_of(name: str, env_name: str = "", download: bool = True, keys: Keys = formats.NO_KEYS) -> Source:
    """The data called `name`, for the task of `env_name` (by default the one that the name implies).

    download: whether data that are not on disk may be downloaded. keys: arrays that are chosen by hand.
    """
    path = obtain(name, download)
    return Source(path, formats.detect(path), task_of(name, env_name), keys)


def task_of(name: str, env_name: str) -> str:
    """The task of `env_name` or, where that is "", of the data called `name`; "" where neither names one."""
    if not env_name:
        return resolve(name).task
    return parse_env_name(env_name).task


class _Blocks:
    """A `base.Sink` that holds the rows of one part until the next one is requested."""

    def __init__(self, task: str, each: Callable[[Block], None]) -> None:
        self._task, self._each = task, each
        self._rows: dict[str, np.ndarray] = {}

    def append(self, name: str, rows: np.ndarray) -> None:
        self._rows[name] = rows

    def watch(self, parts: Iterator[EpisodeChunk]) -> Iterator[EpisodeChunk]:
        """Yield the same parts; when the next one is requested, all rows of the last one have been appended."""
        first = 0
        for part in parts:
            self._rows = {}
            yield part
            if not self._rows:
                continue  # an odd part, which is refused: what follows is only looked at for the message
            lengths = part.lengths or (len(part.actions),)
            obs = {k.removeprefix("obs/"): v for k, v in self._rows.items() if k.startswith("obs/")}
            more = {f"obs/{k}": v for k, v in added(obs, self._task).items()}
            self._each(Block(first, lengths, {**self._rows, **more}))
            first += len(lengths)
