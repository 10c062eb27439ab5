"""What a page about a data set shows: histograms, episodes, curves; read in two passes, in blocks, with bounded memory.

Letters: N transitions, D dimensions of a key, B bins, E episodes; n steps of an episode that are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raybc.data.episodes import EpisodeStore, check_finite
from raybc.data.findings import Report
from raybc.data.formats.base import ReadOptions
from raybc.data.normalize import CONSTANT, Normalizer, hardly_move
from raybc.data.scan import Block, Source
from raybc.data.select import splits_of
from raybc.data.stats import Moments, Summary, Tails
from raybc.data.verify import verify
from raybc.types import UserError

#: Bins of a histogram.
BINS = 50
#: Dimensions of a key that are shown; of the others only their number.
MAX_DIMENSIONS = 256
#: Episodes and steps of each that are kept as curves, and the numbers of all curves together.
CURVE_EPISODES, CURVE_STEPS, CURVE_NUMBERS = 40, 1000, 500_000
#: Bounds below which episodes and steps are not reduced for keys with many dimensions.
FEWEST_EPISODES, FEWEST_STEPS = 6, 100
#: Kinds of normalisation that change values.
KINDS = ("mean_std", "min_max", "quantile")


@dataclass(frozen=True)
class Mapped:
    """What a kind of normalisation makes of the values that it is fitted to."""

    low_D: np.ndarray
    """float64 (D,): the lowest normalised value."""
    high_D: np.ndarray
    """float64 (D,): the highest one."""
    constant_D: np.ndarray
    """bool (D,): dimensions that are shifted and not scaled, since they do not vary."""


@dataclass(frozen=True)
class KeyNumbers:
    """The values of an array, in the units of the data; of the first `MAX_DIMENSIONS` dimensions."""

    size: int
    """Number of dimensions in the data."""
    mean_D: np.ndarray
    """float64 (D,), over all N transitions, as are the next four."""
    std_D: np.ndarray
    """float64 (D,): the sum of squares is divided by N."""
    min_D: np.ndarray
    """float64 (D,)."""
    max_D: np.ndarray
    """float64 (D,)."""
    counts_DB: np.ndarray
    """int64 (D, B): values in bins of one width from the lowest to the highest; of a constant one all in the middle."""
    training: Summary
    """Of the training split, which normalisation is fitted to."""
    mapped: Mapping[str, Mapped]
    """Kind of `KINDS` -> what it makes of the training split."""
    outside_D: np.ndarray
    """float64 (D,): share of the training values below the quantile 0.01 or above 0.99, which `quantile` maps beyond
    -1 and 1."""
    hardly_D: np.ndarray
    """bool (D,): observations that hardly move; they get the scale of others of their key."""


@dataclass(frozen=True)
class Curve:
    """One episode."""

    episode: int
    """Its number."""
    stride: int
    """Every `stride`-th step is kept, from the first on."""
    values: Mapping[str, np.ndarray]
    """Key -> float32 (n, D)."""


@dataclass(frozen=True)
class Overview:
    """A whole data set."""

    source: Source
    """Where it is."""
    about: EpisodeStore
    """What training would build, with arrays of zeros: splits, instructions, success, episode ends, environment."""
    report: Report
    """The findings that need neither a simulator, nor images, nor checksums."""
    numbers: Mapping[str, KeyNumbers]
    """Key ("obs/arm", "actions", "rewards") -> its values; without rewards that nobody recorded."""
    returns_E: np.ndarray | None
    """float64 (E,): sum of the rewards of each episode; None where they are not recorded."""
    train: np.ndarray
    """int64: episodes that normalisation is fitted to."""
    curves: tuple[Curve, ...] = field(default=())
    """Episodes by number."""

    @property
    def lengths_E(self) -> np.ndarray:
        """int64 (E,): steps of each episode."""
        return self.about.episode_ends - self.about.episode_starts


#: Called with (number of the pass, episodes that it has read).
Progress = Callable[[int, int], None]


def overview(
    source: Source,
    skip_bad_episodes: bool = False,
    on_episodes: Progress = lambda *_: None,
    episodes: int = CURVE_EPISODES,
) -> Overview:
    """Read a data set twice.

    Args:
        source: the data set.
        skip_bad_episodes: leave out episodes that cannot be read or differ from most.
        on_episodes: called while reading.
        episodes: at most this many become curves.

    Raises `UserError` for whatever reading refuses, nan and inf included.
    """
    first = _First(source.path, lambda done: on_episodes(1, done))
    report = verify(source, skip_bad_episodes=skip_bad_episodes, watch=first.add, files=False)
    refused = next((finding for finding in report.findings if finding.kind == "unreadable"), None)
    if refused is not None or report.built is None:
        raise UserError(refused.found if refused is not None else f"{source.path}: expected data that can be read")
    built = dataclasses.replace(report.built, success_E=report.success_E, checked=True)
    train = _training(built)
    invented = {note.key for note in built.notes if note.kind == "rewards"}
    moments = {name: found for name, found in first.moments.items() if name not in invented}
    lengths_E = np.diff(built.episode_ends, prepend=0)
    count, steps = _budget(moments, min(episodes, built.num_episodes), int(lengths_E.max()))
    chosen = choose(built.num_episodes, count, report.success_E)
    second = _Second(moments, lengths_E, train, chosen, steps, lambda n: on_episodes(2, n))
    source.scan(second.add, ReadOptions(skip_bad_episodes=skip_bad_episodes))
    return Overview(
        source,
        built,
        report,
        {name: second.numbers(name) for name in moments},
        None if "rewards" in invented else np.array(first.returns, np.float64),
        train,
        tuple(second.curves),
    )


def _training(built: EpisodeStore) -> np.ndarray:
    """Training episodes; all where the splits are refused, about which there is a finding."""
    try:
        return splits_of(built)[0]
    except UserError:
        return np.arange(built.num_episodes)


def choose(total: int, most: int, success_E: np.ndarray | None) -> np.ndarray:
    """At most `most` of `total` episodes, int64, evenly spaced; of both outcomes, where both occur.

    success_E: bool (E,), or None where success is not known.
    """
    everything = np.arange(total)
    if success_E is None or success_E.all() or not success_E.any():
        return _spaced(everything, most)
    solved, missed = np.flatnonzero(success_E), np.flatnonzero(~success_E)
    share = round(most * len(missed) / total)
    of_missed = min(max(share, most // 4, 1), most - 1, len(missed)) if most > 1 else 0
    of_solved = min(most - of_missed, len(solved))
    return np.sort(np.concatenate([_spaced(solved, of_solved), _spaced(missed, most - of_solved)]))


def _spaced(numbers: np.ndarray, most: int) -> np.ndarray:
    if len(numbers) <= most:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).round().astype(np.int64)]


def _budget(moments: Mapping[str, Moments], episodes: int, longest: int) -> tuple[int, int]:
    """How many of `episodes` become curves and the most steps of each, for about `CURVE_NUMBERS` numbers.

    longest: steps of the longest episode.
    """
    width = sum(min(len(found.mean), MAX_DIMENSIONS) for found in moments.values())
    steps = min(CURVE_STEPS, longest)
    count = int(np.clip(CURVE_NUMBERS // (width * steps), min(FEWEST_EPISODES, episodes), episodes))
    return count, int(np.clip(CURVE_NUMBERS // (width * count), min(FEWEST_STEPS, steps), steps))


class _First:
    """The first pass: moments, and returns."""

    def __init__(self, path: Path, on_episodes: Callable[[int], None]) -> None:
        self._path, self._on_episodes = path, on_episodes
        self.moments: dict[str, Moments] = {}
        self.returns: list[float] = []

    def add(self, block: Block) -> None:
        ends = np.cumsum(block.lengths)
        for name, rows in _shown(block).items():
            check_finite(self._path, name, rows, ends, block.first)
            self.moments.setdefault(name, Moments(rows.shape[1])).add(rows)
        sums = np.add.reduceat(block.arrays["rewards"], ends - block.lengths, dtype=np.float64)
        self.returns += sums.tolist()
        self._on_episodes(block.first + len(block.lengths))


class _Second:
    """The second pass, which knows the ranges and which episodes are wanted."""

    def __init__(
        self, moments: Mapping[str, Moments], lengths_E: np.ndarray, train: np.ndarray, chosen: np.ndarray,
        most_steps: int, on_episodes: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._moments, self._train, self._chosen = moments, frozenset(train.tolist()), frozenset(chosen.tolist())
        self._most_steps, self._on_episodes = most_steps, on_episodes
        self._counts = {k: np.zeros((min(len(m.mean), MAX_DIMENSIONS), BINS), np.int64) for k, m in moments.items()}
        rows = int(lengths_E[train].sum())
        self._training = {name: Moments(len(found.mean)) for name, found in moments.items()}
        self._tails = {name: Tails(rows) for name in moments}
        self.curves: list[Curve] = []

    def add(self, block: Block) -> None:
        arrays = {name: rows for name, rows in _shown(block).items() if name in self._moments}
        kept = block.rows_of(self._train)
        for name, rows in arrays.items():
            for d, counts in enumerate(self._counts[name]):
                counts += _counted(rows[:, d], float(self._moments[name].min[d]), float(self._moments[name].max[d]))
            if kept.any():
                self._training[name].add(rows[kept])
                self._tails[name].add(rows[kept])
        for episode, place in block.episodes():
            if episode in self._chosen:
                stride = -(-(place.stop - place.start) // self._most_steps)
                values = {
                    k: np.array(v[place.start : place.stop : stride, :MAX_DIMENSIONS], np.float32)
                    for k, v in arrays.items()
                }
                self.curves.append(Curve(episode, stride, values))
        self._on_episodes(block.first + len(block.lengths))

    def numbers(self, name: str) -> KeyNumbers:
        whole, fitted, tails = self._moments[name], self._training[name], self._tails[name]
        size, shown = len(whole.mean), slice(0, MAX_DIMENSIONS)
        summary = Summary(fitted.count, fitted.mean, fitted.std, fitted.min, fitted.max, *tails.quantiles())
        is_obs = name.startswith("obs/")
        hardly_D = hardly_move(fitted.min, fitted.max, [size]) if is_obs else np.zeros(size, bool)
        mapped = {}
        for kind in KINDS:
            normalizer = Normalizer.from_summary(summary, [kind] * size)
            if is_obs:
                normalizer = normalizer.with_floor(fitted.min, fitted.max, [kind] * size, [size])
            low_D, high_D = (normalizer.apply(ends).astype(np.float64)[shown] for ends in (fitted.min, fitted.max))
            half_D = {"mean_std": summary.std, "min_max": (summary.max - summary.min) / 2,
                      "quantile": (summary.q99 - summary.q01) / 2}[kind]  # fmt: skip
            mapped[kind] = Mapped(low_D, high_D, half_D[shown] < CONSTANT)
        columns = {k: v if k == "count" else v[shown] for k, v in vars(summary).items()}
        return KeyNumbers(
            size, whole.mean[shown], whole.std[shown], whole.min[shown], whole.max[shown], self._counts[name],
            dataclasses.replace(summary, **columns), mapped, tails.outside()[shown], hardly_D[shown],
        )  # fmt: skip


def _counted(values_N: np.ndarray, low: float, high: float) -> np.ndarray:
    if not high > low:
        return np.bincount([BINS // 2], [len(values_N)], minlength=BINS).astype(np.int64)
    return np.histogram(values_N.astype(np.float64), bins=BINS, range=(low, high))[0].astype(np.int64)


def _shown(block: Block) -> dict[str, np.ndarray]:
    """The arrays of numbers, as rows (n, D)."""
    wanted = {k: v for k, v in block.arrays.items() if k in ("actions", "rewards") or k.startswith("obs/")}
    return {k: v[:, None] if v.ndim == 1 else v for k, v in wanted.items() if v.dtype != np.uint8}
