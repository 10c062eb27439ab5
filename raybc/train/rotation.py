"""The windows that each training step draws from.

With `dataset_replace_interval`, training rotates through the files of a multi-file dataset, so that only one file has
to be in memory. Otherwise every step draws from the same windows.

The current file depends on the step alone, so a resumed run continues with the right file.
Letters: N transitions, D feature dim.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raybc.config import RunConfig
from raybc.data import lazy
from raybc.data.action_form import ActionForm
from raybc.data.episodes import EpisodeStore
from raybc.data.normalize import Normalizer
from raybc.data.rewards import rewards_and_ends
from raybc.data.transitions import Transitions
from raybc.data.windows import Padding, Windows
from raybc.language.table import Instructions

#: Rows that are read at a time to fit statistics.
ROWS_PER_BLOCK = 65_536
#: Maximum number of held-out episodes that stay in memory in addition to the current file.
VALIDATION_EPISODES = 64


class ShardRotation:
    """The windows of one file at a time, built on first use and dropped when the next file is due."""

    def __init__(
        self, builds: Sequence[Callable[[], Windows]], counts: Sequence[int], first_rows: Sequence[int], interval: int
    ) -> None:
        """
        Args:
            builds: functions that build the windows of each file.
            counts: number of windows in each file.
            first_rows: first row of each file in the dataset.
            interval: training steps before the next file.
        """
        self._builds, self._counts, self._first_rows, self._interval = builds, counts, first_rows, interval
        self._file = -1
        self._windows: Windows | None = None

    @classmethod
    def always(cls, windows: Windows) -> ShardRotation:
        """No rotation: every step draws from `windows`."""
        return cls([lambda: windows], [len(windows.starts)], [0], 1)

    @property
    def total(self) -> int:
        """Windows in all files."""
        return sum(self._counts)

    def file_at(self, step: int) -> int:
        """Index of the file at `step`."""
        return step // self._interval % len(self._builds)

    def count_at(self, step: int, member: int = 0) -> int:
        """Number of windows to draw from at `step`, the same for every member."""
        return self._counts[self.file_at(step)]

    def first_row(self, step: int) -> int:
        """The row of the dataset that is row 0 of the windows at `step`."""
        return self._first_rows[self.file_at(step)]

    def at(self, step: int) -> Windows:
        """The windows at `step`."""
        file = self.file_at(step)
        if self._windows is None or file != self._file:
            self._windows = None  # free the old windows first: memory may hold only one file
            self._windows, self._file = self._builds[file](), file
        return self._windows


@dataclass(frozen=True)
class DatasetView:
    """The observations of a store that a policy uses, and their normalisation."""

    store: EpisodeStore
    low_dim: tuple[str, ...]
    """Names of the low-dimensional observations, in the order in which they are concatenated."""
    images: tuple[str, ...]
    """Names of the images."""
    obs_normalizer: Normalizer
    """Of the concatenated low-dimensional observations."""
    action_normalizer: Normalizer
    instructions: Instructions | None = None
    """For a policy that reads them."""

    def windows(
        self, rows: slice | np.ndarray, ends: np.ndarray, episodes: np.ndarray, config: RunConfig, device: torch.device
    ) -> Windows:
        """The normalised windows of some rows of the store, on `device`.

        Args:
            rows: rows of whole episodes.
            ends: end of each of these episodes, int64 (E,), relative to the first row.
            episodes: indices into `ends` of the episodes to draw windows from, int64.
        """
        store = self.store
        form = ActionForm.of(config, store.actions_NA.shape[1])
        return Windows.build(
            self.obs_normalizer.apply(store.observation(self.low_dim, rows)),
            self.action_normalizer.apply(form.encode(store.actions_NA[rows])),
            ends,
            episodes,
            config.chunk_length,
            device,
            config.obs_steps,
            {name: lazy.rows_of(store.obs[name], rows) for name in self.images},
            Padding.of(config),
            self._language(rows, ends),
            self._transitions(rows, ends, config, device),
        )

    def _transitions(
        self, rows: slice | np.ndarray, ends: np.ndarray, config: RunConfig, device: torch.device
    ) -> Transitions | None:
        if config.critic.is_none:
            return None
        rewards_N, terminals_N = rewards_and_ends(config, self.store)
        return Transitions.build(rewards_N[rows], terminals_N[rows], ends, config.get("gamma"), device)

    def _language(self, rows: slice | np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The number of the instruction of each episode, int64 (E,), and the embeddings, float32 (K, E)."""
        if self.instructions is None:
            return None
        first = np.arange(len(self.store.actions_NA))[rows][np.concatenate([[0], ends[:-1]])]
        episodes = np.searchsorted(self.store.episode_ends, first, side="right")
        return self.instructions.rows([self.store.tasks[e] for e in episodes]), self.instructions.vectors_KE


def rotation_of(view: DatasetView, config: RunConfig, episodes: np.ndarray, device: torch.device) -> ShardRotation:
    """Rotate through the files of `view.store` that contain some of `episodes` (int64, the training episodes)."""
    store = view.store
    builds, counts, first_rows = [], [], []
    for first, end in zip((0, *store.files[:-1]), store.files, strict=True):
        mine = episodes[(episodes >= first) & (episodes < end)]
        windows = int(window_counts(config, store, mine).sum())
        if windows:
            builds.append(functools.partial(_file_windows, view, config, device, first, end, mine))
            first_rows.append(int(store.episode_starts[first]))
            counts.append(windows)
    return ShardRotation(builds, counts, first_rows, config.dataset_replace_interval)


def _file_windows(
    view: DatasetView, config: RunConfig, device: torch.device, first: int, end: int, episodes: np.ndarray
) -> Windows:
    """The windows of `episodes` in the file with episodes `first` .. `end` - 1."""
    store = view.store
    row = int(store.episode_starts[first])
    rows = slice(row, int(store.episode_ends[end - 1]))
    return view.windows(rows, store.episode_ends[first:end] - row, episodes - first, config, device)


def held_out_windows(
    view: DatasetView, config: RunConfig, episodes: np.ndarray, device: torch.device, max_windows: int
) -> Windows | None:
    """At most `max_windows` windows of at most `VALIDATION_EPISODES` held-out episodes, evenly spaced.

    episodes: int64. Returns None if there are none.
    """
    if not len(episodes):
        return None
    if len(episodes) > VALIDATION_EPISODES:
        episodes = episodes[np.linspace(0, len(episodes) - 1, VALIDATION_EPISODES).round().astype(np.int64)]
    rows = rows_of(view.store, episodes)
    ends = np.cumsum((view.store.episode_ends - view.store.episode_starts)[episodes])
    every = np.arange(len(episodes))
    return view.windows(rows, ends, every, config, device).of_episodes(every, ends, max_windows)


def fitted(
    take: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, kinds: Sequence[str], sizes: Sequence[int] = ()
) -> Normalizer:
    """`Normalizer.fit_columns` on `take(rows)`, float32 (N, D), in blocks, because all rows may not fit in memory.

    kinds: the statistics of each of the D columns. sizes: of observations, for `Normalizer.with_floor` ((): none).
    """

    from raybc.data.stats import summary_of  # readers of all formats, which most trainings do without

    def blocks() -> Iterator[np.ndarray]:
        return (take(rows[first : first + ROWS_PER_BLOCK]) for first in range(0, len(rows), ROWS_PER_BLOCK))

    summary = summary_of(blocks)
    found = Normalizer.from_summary(summary, kinds)
    return found.with_floor(summary.min, summary.max, kinds, sizes) if sizes else found


def window_counts(config: RunConfig, store: EpisodeStore, episodes: np.ndarray) -> np.ndarray:
    """Windows of each of `episodes`, int64."""
    lengths = (store.episode_ends - store.episode_starts)[episodes]
    return Padding.of(config).counts(lengths, config.chunk_length, config.obs_steps)


def rows_of(store: EpisodeStore, episodes: np.ndarray) -> np.ndarray:
    """The rows of `episodes`, int64, in the given order."""
    return np.concatenate([np.arange(store.episode_starts[e], store.episode_ends[e]) for e in episodes])
