"""Which windows are drawn from at which step.

Of a set in several files those of one file after the other, so that never more than one has to be in memory
(`dataset_replace_interval`); of any other set always the same.

The file is a function of the step alone, like everything that is random, so a run that was stopped goes on with it.
Letters: N transitions, D columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.normalize import Normalizer
from raybc.data.stats import summary_of
from raybc.data.windows import Windows

#: Rows that are looked at together, and held-out episodes that are kept beside a file.
BLOCK, HELD_OUT = 65_536, 64


class ShardRotation:
    """The windows of each file, built when their turn comes and dropped when it is over.

    builds: gives the windows of each file. counts: how many there are. first_rows: where each file begins in the set.
    interval: steps of a turn.
    """

    def __init__(
        self, builds: Sequence[Callable[[], Windows]], counts: Sequence[int], first_rows: Sequence[int], interval: int
    ) -> None:
        self._builds, self._counts, self._first_rows, self._interval = builds, counts, first_rows, interval
        self._file = -1
        self._windows: Windows | None = None

    @classmethod
    def always(cls, windows: Windows) -> ShardRotation:
        return cls([lambda: windows], [len(windows.starts)], [0], 1)

    @property
    def total(self) -> int:
        """Windows in all files."""
        return sum(self._counts)

    def file_at(self, step: int) -> int:
        return step // self._interval % len(self._builds)

    def count_at(self, step: int) -> int:
        """Windows that there are to draw from."""
        return self._counts[self.file_at(step)]

    def first_row(self, step: int) -> int:
        """The row of the set that is row 0 of the windows."""
        return self._first_rows[self.file_at(step)]

    def at(self, step: int) -> Windows:
        file = self.file_at(step)
        if self._windows is None or file != self._file:
            self._windows = None  # before the next is built: there is room for one
            self._windows, self._file = self._builds[file](), file
        return self._windows


@dataclass(frozen=True)
class DatasetView:
    """What a policy learns from in a store: the numbers and images that it observes, and their normalisation."""

    store: EpisodeStore
    low_dim: tuple[str, ...]
    images: tuple[str, ...]
    obs_normalizer: Normalizer
    action_normalizer: Normalizer

    def windows(
        self, rows: slice | np.ndarray, ends: np.ndarray, episodes: np.ndarray, config: RunConfig, device: torch.device
    ) -> Windows:
        """Of `rows` of the store, which are whole episodes; ends, episodes: counted from the first of them."""
        store = self.store
        return Windows.build(
            self.obs_normalizer.apply(store.observation(self.low_dim, rows)),
            self.action_normalizer.apply(store.actions_NA[rows]),
            ends,
            episodes,
            config.chunk_length,
            device,
            config.obs_steps,
            {name: store.obs[name][rows] for name in self.images},
        )


def rotation_of(columns: DatasetView, config: RunConfig, episodes: np.ndarray, device: torch.device) -> ShardRotation:
    """A turn for each file of the set that has some of `episodes`, which are those that are trained on."""
    store = columns.store
    builds, counts, first_rows = [], [], []
    for first, end in zip((0, *store.files[:-1]), store.files, strict=True):
        mine = episodes[(episodes >= first) & (episodes < end)]
        if len(mine):
            builds.append(functools.partial(_file, columns, config, device, first, end, mine))
            first_rows.append(int(store.episode_starts[first]))
            counts.append(int((store.episode_ends - store.episode_starts)[mine].sum()))
    return ShardRotation(builds, counts, first_rows, config.dataset_replace_interval)


def _file(
    columns: DatasetView, config: RunConfig, device: torch.device, first: int, end: int, episodes: np.ndarray
) -> Windows:
    store = columns.store
    row = int(store.episode_starts[first])
    rows = slice(row, int(store.episode_ends[end - 1]))
    return columns.windows(rows, store.episode_ends[first:end] - row, episodes - first, config, device)


def held_out_windows(
    columns: DatasetView, config: RunConfig, episodes: np.ndarray, device: torch.device, most: int
) -> Windows | None:
    """At most `most` windows of held-out episodes, of at most `HELD_OUT` of them, spread evenly; None without any."""
    if not len(episodes):
        return None
    if len(episodes) > HELD_OUT:
        episodes = episodes[np.linspace(0, len(episodes) - 1, HELD_OUT).round().astype(np.int64)]
    rows = rows_of(columns.store, episodes)
    ends = np.cumsum((columns.store.episode_ends - columns.store.episode_starts)[episodes])
    every = np.arange(len(episodes))
    return columns.windows(rows, ends, every, config, device).of_episodes(every, ends, most)


def fitted(take: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, kinds: Sequence[str]) -> Normalizer:
    """`Normalizer.fit_columns` on `take(rows)`, float32 (N, D), some rows at a time: as many as that may be more than
    there is memory for."""

    def blocks() -> Iterator[np.ndarray]:
        return (take(rows[first : first + BLOCK]) for first in range(0, len(rows), BLOCK))

    return Normalizer.from_summary(summary_of(blocks), kinds)


def rows_of(store: EpisodeStore, episodes: np.ndarray) -> np.ndarray:
    """The rows of some episodes, in their order."""
    return np.concatenate([np.arange(store.episode_starts[e], store.episode_ends[e]) for e in episodes])
