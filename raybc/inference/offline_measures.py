"""Measures of a policy on held-out episodes: 0 is perfect and lower is better, of all of them.

A measure gives a number for each window, from which one for each episode and one for the policy are computed. Errors
are those of the steps that would be executed, each action dimension divided by its standard deviation in the held-out
episodes (see `Predicted.scaled_errors_KBHA`), unless a measure says otherwise.

Letters: B windows, K samples of a window, H chunk, A action dim, E episodes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.inference.agent import Agent
from raybc.inference.held_out import SAMPLES, WINDOWS, Predicted, predict
from raybc.types import SampleSetting

#: Share of the range of a dimension within which a value counts as one of its two ends, and the share of values that
#: must be there for the dimension to be one that switches, as that of a gripper.
NEAR, SWITCHES = 0.05, 0.9
#: Lengths below this count as this in a cosine.
SMALLEST = 1e-8


@dataclass(frozen=True)
class Measure:
    """One way to compare predicted with recorded chunks."""

    of_windows: Callable[[Predicted], np.ndarray]
    """float64 (B,); nan where a window tells nothing."""
    root: bool = True
    """Whether the number of a policy is the root of the mean over episodes."""
    samples: int = 1
    """Samples of a window that it needs."""
    is_shifted: bool = False
    """Whether it needs `Predicted.later_BHA`."""
    quantile: float | None = None
    """Of the windows of an episode; None: their mean."""

    def of_episodes(self, predicted: Predicted) -> np.ndarray:
        """The number of each episode before the root, float64 (E,); nan where it has none."""
        window_B = self.of_windows(predicted)
        found = []
        for episode in predicted.episodes:
            values = window_B[predicted.episode_B == episode]
            values = values[~np.isnan(values)]
            if not len(values):
                found.append(math.nan)
            elif self.quantile is None:
                found.append(float(values.mean()))
            else:
                found.append(float(np.quantile(values, self.quantile)))
        return np.array(found)

    def value(self, episode_E: np.ndarray) -> float:
        """The number of a policy from those of episodes (`of_episodes`); nan where none has one."""
        known = episode_E[~np.isnan(episode_E)]
        if not len(known):
            return math.nan
        mean = float(known.mean())
        return math.sqrt(mean) if self.root else mean


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean without nan; nan where all are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found: np.ndarray = np.nanmean(values, axis=axis)
    return found


def _squared_BH(predicted: Predicted) -> np.ndarray:
    """Mean squared error of each step of the first sample."""
    first: np.ndarray = predicted.scaled_squares_KBH[0]
    return first


def _error(p: Predicted) -> np.ndarray:
    return _mean(_squared_BH(p)[:, : p.executed], 1)


def _absolute(p: Predicted) -> np.ndarray:
    return _mean(np.abs(p.scaled_errors_KBHA[0, :, : p.executed]).mean(-1), 1)


def _cosine(p: Predicted) -> np.ndarray:
    """One minus the cosine between chunks of deviations from the mean action, over the standard deviation."""
    varies_A, steps = p.spread_A > 0, slice(0, p.executed)
    scaled = [
        np.where(p.inside_BH[:, steps, None], (x[:, steps, varies_A] - p.mean_A[varies_A]) / p.spread_A[varies_A], 0.0)
        for x in (p.chunks_KBHA[0], p.recorded_BHA)
    ]
    product = (scaled[0] * scaled[1]).sum((1, 2))
    lengths = [np.maximum(np.sqrt((x**2).sum((1, 2))), SMALLEST) for x in scaled]
    found: np.ndarray = 1 - product / (lengths[0] * lengths[1])
    return found


def _consistency(p: Predicted) -> np.ndarray:
    """Squared difference of two predictions of the same steps, of chunks half a chunk apart."""
    assert p.later_BHA is not None, "predicted with is_shifted"
    horizon, varies_A = p.chunks_KBHA.shape[2], p.spread_A > 0
    if horizon == 1:
        return np.full(p.chunks_KBHA.shape[1], np.nan)
    apart = (p.chunks_KBHA[0, :, p.shift :] - p.later_BHA[:, : horizon - p.shift])[..., varies_A]
    squared_BH = ((apart / p.spread_A[varies_A]) ** 2).mean(-1)
    return _mean(np.where(p.inside_BH[:, p.shift :], squared_BH, np.nan), 1)


def _mean_of_samples(p: Predicted) -> np.ndarray:
    return _mean((p.scaled_errors_KBHA.mean(0) ** 2).mean(-1)[:, : p.executed], 1)


def _best_of_samples(p: Predicted) -> np.ndarray:
    found: np.ndarray = _mean(p.scaled_squares_KBH[..., : p.executed], 2).min(0)
    return found


def _wrong_side(p: Predicted) -> np.ndarray:
    """The share of steps on the wrong side of the middle, over the dimensions that switch between two values; nan
    without any."""
    recorded = p.recorded_BHA[p.inside_BH]
    low_A, high_A = recorded.min(0), recorded.max(0)
    margin_A = NEAR * (high_A - low_A)
    is_end = (recorded <= low_A + margin_A) | (recorded >= high_A - margin_A)
    switches_A = (p.spread_A > 0) & (is_end.mean(0) >= SWITCHES)
    if not switches_A.any():
        return np.full(len(p.recorded_BHA), np.nan)
    middle_A = (low_A + high_A) / 2
    wrong = ((p.chunks_KBHA[0] > middle_A) != (p.recorded_BHA > middle_A))[..., switches_A].mean(-1)
    return _mean(np.where(p.inside_BH, wrong, np.nan)[:, : p.executed], 1)


#: Name -> measure.
MEASURES: dict[str, Measure] = {
    "error": Measure(_error),
    "first_step": Measure(lambda p: _squared_BH(p)[:, 0]),
    "last_step": Measure(lambda p: _squared_BH(p)[:, p.executed - 1]),
    "whole_chunk": Measure(lambda p: _mean(_squared_BH(p), 1)),
    "four_steps": Measure(lambda p: _mean(_squared_BH(p)[:, :4], 1)),
    "absolute": Measure(_absolute, root=False),
    "median": Measure(_error, quantile=0.5),
    "worst_tenth": Measure(_error, quantile=0.9),
    "cosine": Measure(_cosine, root=False),
    "consistency": Measure(_consistency, is_shifted=True),
    "mean_of_samples": Measure(_mean_of_samples, samples=SAMPLES),
    "best_of_samples": Measure(_best_of_samples, samples=SAMPLES),
    "wrong_side": Measure(_wrong_side, root=False),
}
#: Measures that need no other predictions than the error.
CHEAP = ("first_step", "absolute", "cosine")


def measure_of(metric: str) -> str:
    """The measure that a metric of `raybc.metric.METRICS` without episodes is: valid_cosine -> cosine."""
    return metric.removeprefix("valid_")


def measure_all(
    agent: Agent, store: EpisodeStore, episodes: np.ndarray, setting: SampleSetting, most: int = WINDOWS
) -> dict[str, np.ndarray]:
    """Name -> the number of each episode before the root, float64 (E,), from the same chunks. Arguments: see
    `predict`."""
    predicted = predict(agent, store, episodes, setting, samples=SAMPLES, is_shifted=True, most=most)
    return {name: measure.of_episodes(predicted) for name, measure in MEASURES.items()}
