"""Statistics of a data set, read a block at a time: what normalisation is fitted from, and what `verify` looks at.

Letters: N values, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.data.episodes import check_finite
from raybc.data.formats.base import BLOCK, ReadOptions
from raybc.data.normalize import QUANTILES
from raybc.data.scan import Block, Source
from raybc.types import UserError


@dataclass(frozen=True)
class Summary:
    """Of each dimension, float64 (D,), in the units of the data. count: values that were looked at. std is that of the
    values themselves (divided by N); quantiles lie between the two nearest values, as numpy's do."""

    count: int
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q99: np.ndarray

    def as_json(self) -> dict[str, object]:
        return {k: v if k == "count" else v.tolist() for k, v in vars(self).items()}


class Moments:
    """Count, mean, variance and range of rows (n, D) that come a block at a time.

    Blocks are merged with Chan's formula in float64: the mean of the squares minus the square of the mean would lose
    everything where an offset is large beside the spread.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)  # of the distances from the mean
        self.min, self.max = np.full(size, np.inf), np.full(size, -np.inf)

    def add(self, rows_ND: np.ndarray) -> None:
        n = len(rows_ND)
        if not n:
            return
        rows = rows_ND.astype(np.float64)
        mean = rows.mean(0)
        delta, total = mean - self.mean, self.count + n
        self._squares += ((rows - mean) ** 2).sum(0) + delta**2 * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.count = total
        self.min, self.max = np.minimum(self.min, rows.min(0)), np.maximum(self.max, rows.max(0))

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self._squares / max(1, self.count))


class Tails:
    """The exact quantiles `QUANTILES` of `count` rows (n, D) that come a block at a time.

    As many of the lowest and of the highest values are kept as a quantile can lie among: two in a hundred.
    """

    def __init__(self, count: int) -> None:
        self._places = [q * (count - 1) for q in QUANTILES]
        self._keep = min(count, int(self._places[0]) + 2), count - int(self._places[1])
        self._count = count
        self._low: list[np.ndarray] = []
        self._high: list[np.ndarray] = []
        self._waiting = 0

    def add(self, rows_ND: np.ndarray) -> None:
        rows = np.array(rows_ND)
        self._low.append(rows)
        self._high.append(rows)
        self._waiting += len(rows)
        if self._waiting >= max(BLOCK, *self._keep):  # not for each short episode anew
            self._shrink()

    def _shrink(self) -> None:
        low, high = np.concatenate(self._low), np.concatenate(self._high)
        few, many = min(self._keep[0], len(low)), min(self._keep[1], len(high))
        self._low = [np.partition(low, few - 1, axis=0)[:few]]
        self._high = [np.partition(high, len(high) - many, axis=0)[len(high) - many :]]
        self._waiting = 0

    def quantiles(self) -> tuple[np.ndarray, np.ndarray]:
        """Both, float64 (D,)."""
        self._shrink()
        low, high = (np.sort(tail[0].astype(np.float64), axis=0) for tail in (self._low, self._high))
        first = self._count - len(high)  # the place of high[0] among all values
        return _between(low, self._places[0]), _between(high, self._places[1] - first)


def _between(sorted_ND: np.ndarray, place: float) -> np.ndarray:
    below = int(place)
    above = min(below + 1, len(sorted_ND) - 1)
    return sorted_ND[below] + (place - below) * (sorted_ND[above] - sorted_ND[below])


class _Levels:
    """Statistics of images, for each channel: how often each of the 256 values occurs tells all of them."""

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), np.int64)

    def add(self, images: np.ndarray) -> None:
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(images[..., channel].reshape(-1), minlength=256)

    def summary(self) -> Summary:
        values, found = np.arange(256.0), []
        for counts in self._counts:
            n = int(counts.sum())
            mean = float(counts @ values) / n
            seen, ends = np.flatnonzero(counts), np.cumsum(counts)

            def at(place: float, ends: np.ndarray = ends) -> float:
                below, above = np.searchsorted(ends, [int(place), int(np.ceil(place))], side="right")
                return float(below + (place - int(place)) * (above - below))

            low, high = (at(q * (n - 1)) for q in QUANTILES)
            spread = np.sqrt(float(counts @ (values - mean) ** 2) / n)
            found.append((mean, spread, seen[0], seen[-1], low, high))
        return Summary(int(self._counts[0].sum()), *np.array(found, np.float64).T)


def summary_of(blocks: Callable[[], Iterable[np.ndarray]]) -> Summary:
    """Of the columns of finite rows (n, D) that `blocks()` gives, which is called twice. As `numpy` on the whole, to
    rounding."""
    moments: Moments | None = None
    for rows_ND in blocks():
        moments = moments or Moments(rows_ND.shape[1])
        moments.add(rows_ND)
    assert moments is not None, "no rows"
    tails = Tails(moments.count)
    for rows_ND in blocks():
        tails.add(rows_ND)
    return Summary(moments.count, moments.mean, moments.std, moments.min, moments.max, *tails.quantiles())


def statistics(source: Source, wanted: ReadOptions | None = None, split: str = "") -> dict[str, Summary]:
    """Of observations, actions and rewards (and states, images by channel, where they are wanted). split: only of the
    episodes in it. The data are read twice: quantiles need to know how many values there are.

    Raises `UserError` for nan and inf, with key and episode, and for a split that is not there or has no episodes.
    """
    episodes = source.split(split) if split else None
    moments: dict[str, Moments] = {}
    images: dict[str, _Levels] = {}

    def first_pass(block: Block) -> None:
        for name, rows in _columns(block, episodes).items():
            if rows.dtype == np.uint8:
                images.setdefault(name, _Levels(rows.shape[-1])).add(rows)
                continue
            if not np.isfinite(rows).all():
                _refuse_not_finite(source.path, block, name, episodes)
            moments.setdefault(name, Moments(rows.shape[1])).add(rows)

    source.scan(first_pass, wanted)
    if not any(m.count for m in moments.values()):
        raise UserError(f"{source.path}: split {split!r}: expected episodes that are in the data, got none of them")
    tails = {name: Tails(m.count) for name, m in moments.items()}

    def second_pass(block: Block) -> None:
        for name, rows in _columns(block, episodes).items():
            if name in tails:
                tails[name].add(rows)

    source.scan(second_pass, wanted)
    found = {k: Summary(m.count, m.mean, m.std, m.min, m.max, *tails[k].quantiles()) for k, m in moments.items()}
    return found | {name: levels.summary() for name, levels in images.items()}


def _columns(block: Block, episodes: Container[int] | None = None) -> Mapping[str, np.ndarray]:
    """What has statistics, as rows (n, D), those of `episodes` where they are given; images as they are."""
    arrays = {k: v for k, v in block.arrays.items() if k != "terminals"}
    if episodes is not None:
        kept = block.rows_of(episodes)
        arrays = {k: v[kept] for k, v in arrays.items()}
    return {k: v[:, None] if v.ndim == 1 else v for k, v in arrays.items()}


def _refuse_not_finite(path: Path, block: Block, name: str, episodes: Container[int] | None) -> None:
    for episode, rows in block.episodes():
        if episodes is None or episode in episodes:
            check_finite(path, name, block.arrays[name][rows], np.array([rows.stop - rows.start]), episode)
