"""Statistics of a data set, read in blocks: what normalisation is fitted to and what `verify` compares.

Letters: N values, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.data.episodes import check_finite
from raybc.data.formats.base import ROWS_PER_READ, ReadOptions
from raybc.data.normalize import QUANTILES
from raybc.data.scan import Block, Source
from raybc.types import UserError


@dataclass(frozen=True)
class Summary:
    """Statistics of each dimension, float64 (D,), in the units of the data."""

    count: int
    """N, the number of values of each dimension."""
    mean: np.ndarray
    """Mean."""
    std: np.ndarray
    """Standard deviation of these values (the sum of squares is divided by N)."""
    min: np.ndarray
    """Lowest value."""
    max: np.ndarray
    """Highest value."""
    q01: np.ndarray
    """Quantile 0.01, interpolated between the two nearest values, as numpy does."""
    q99: np.ndarray
    """Quantile 0.99."""

    def as_json(self) -> dict[str, object]:
        return {k: v if k == "count" else v.tolist() for k, v in vars(self).items()}


class Moments:
    """Count, mean, standard deviation and range of rows (n, D) that are added in blocks.

    Blocks are merged with Chan's formula in float64: the mean of squares minus the square of the mean loses all digits
    where the mean is large compared with the standard deviation.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", COMPSTAT 1982, pp. 30-41.
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
    """The exact quantiles `QUANTILES` of `count` rows (n, D) that are added in blocks.

    Only the lowest and the highest hundredth of the values are kept.
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
        if self._waiting >= max(ROWS_PER_READ, *self._keep):  # not for every short episode
            self._shrink()

    def _shrink(self) -> None:
        low, high = np.concatenate(self._low), np.concatenate(self._high)
        few, many = min(self._keep[0], len(low)), min(self._keep[1], len(high))
        self._low = [np.partition(low, few - 1, axis=0)[:few]]
        self._high = [np.partition(high, len(high) - many, axis=0)[len(high) - many :]]
        self._waiting = 0

    def quantiles(self) -> tuple[np.ndarray, np.ndarray]:
        """Both quantiles, float64 (D,) each."""
        self._shrink()
        low, high = (np.sort(tail[0].astype(np.float64), axis=0) for tail in (self._low, self._high))
        first = self._count - len(high)  # the place of high[0] among all values
        return _between(low, self._places[0]), _between(high, self._places[1] - first)

    def outside(self) -> np.ndarray:
        """float64 (D,): share of the values below the first quantile or above the second."""
        first, second = self.quantiles()
        below, above = (self._low[0] < first).sum(axis=0), (self._high[0] > second).sum(axis=0)
        return np.asarray((below + above) / max(1, self._count), np.float64)


def _between(sorted_ND: np.ndarray, place: float) -> np.ndarray:
    below = int(place)
    above = min(below + 1, len(sorted_ND) - 1)
    return sorted_ND[below] + (place - below) * (sorted_ND[above] - sorted_ND[below])


class _Histograms:
    """Statistics of images for each channel, from a histogram of the 256 values."""

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
    """Statistics of the finite rows (n, D) that `blocks()` yields; it is called twice. Equal to numpy's on all rows at
    once, up to rounding."""
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
    """Statistics of observations, actions and rewards, by name; of states, and images by channel, where `wanted`.

    split: "" for all episodes. The data are read twice, since quantiles depend on the number of values. Raises
    `UserError` for nan and inf, with key and episode, and for a split that is missing or empty.
    """
    episodes = source.split(split) if split else None
    wanted = wanted or ReadOptions()
    moments: dict[str, Moments] = {}
    images: dict[str, _Histograms] = {}

    def first_pass(block: Block) -> None:
        for name, rows in _rows(block, episodes).items():
            if rows.dtype == np.uint8:
                images.setdefault(name, _Histograms(rows.shape[-1])).add(rows)
                continue
            if not np.isfinite(rows).all():
                _refuse_not_finite(source.path, block, name, episodes)
            moments.setdefault(name, Moments(rows.shape[1])).add(rows)

    source.scan(first_pass, wanted)
    if not any(m.count for m in moments.values()):
        raise UserError(f"{source.path}: split {split!r}: expected episodes that are in the data, got none of them")
    tails = {name: Tails(m.count) for name, m in moments.items()}

    def second_pass(block: Block) -> None:
        for name, rows in _rows(block, episodes).items():
            if name in tails:
                tails[name].add(rows)

    source.scan(second_pass, wanted)
    found = {k: Summary(m.count, m.mean, m.std, m.min, m.max, *tails[k].quantiles()) for k, m in moments.items()}
    invented = {key for kind, key in wanted.remarks.notes if kind == "rewards"}  # zeros that nobody recorded
    found = {name: summary for name, summary in found.items() if name not in invented}
    return found | {name: histograms.summary() for name, histograms in images.items()}


def _rows(block: Block, episodes: Container[int] | None = None) -> Mapping[str, np.ndarray]:
    """The arrays that have statistics, as rows (n, D), images as they are; only those of `episodes`, if given."""
    arrays = {k: v for k, v in block.arrays.items() if k != "terminals"}
    if episodes is not None:
        kept = block.rows_of(episodes)
        arrays = {k: v[kept] for k, v in arrays.items()}
    return {k: v[:, None] if v.ndim == 1 else v for k, v in arrays.items()}


def _refuse_not_finite(path: Path, block: Block, name: str, episodes: Container[int] | None) -> None:
    for episode, rows in block.episodes():
        if episodes is None or episode in episodes:
            check_finite(path, name, block.arrays[name][rows], np.array([rows.stop - rows.start]), episode)
