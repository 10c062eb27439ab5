"""How well a policy predicts the actions of held-out episodes: what can be measured without a simulator.

None of these numbers is a success rate, and a lower one does not prove a better policy. They are measured through the
same `Agent` that acts in rollouts and on robots: physical observations in, physical chunks out.

Letters: B windows, H chunk, A action dim, E episodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.inference.agent import Agent
from raybc.inference.held_out import predict
from raybc.inference.offline_measures import CHEAP, MEASURES, measure_of
from raybc.statistics import mean_interval
from raybc.types import SampleSetting


@dataclass(frozen=True)
class OfflineError:
    """The error of a policy's actions on held-out episodes.

    Errors are those of the steps that would be executed: the first `execute_steps` of a chunk, or all of them.
    """

    error: float
    """Root mean squared error, where each action dimension is divided by its standard deviation in the held-out
    episodes: 0 is perfect, and 1 is as wrong as always giving the mean action. The mean runs over dimensions, then over
    windows, then over episodes. Dimensions that never change are left out."""
    interval: tuple[float, float] | None
    """95 % interval of `error` over episodes (Student's t of the mean squared error); None for a single episode."""
    rmse_A: np.ndarray
    """Root mean squared error of each action dimension, physical, float64 (A,). Where rotations are learned as
    rotation_6d, so are the errors measured, and A is larger (`ActionForm`)."""
    step_error_H: np.ndarray
    """`error` at each step of the whole chunk, float64 (H,), over all windows; nan where no window is that long."""
    episode_error_E: np.ndarray
    """`error` of each episode, float64 (E,)."""
    episodes: tuple[int, ...]
    """Numbers of the E episodes."""
    windows: int
    """Windows that were predicted."""
    metric: str
    """The metric that was asked for, a key of `raybc.metric.METRICS`."""
    score: float
    """Its value; `error` for valid_error."""
    score_interval: tuple[float, float] | None
    """95 % interval of `score` over episodes, as that of `error`; None for a single episode."""
    measures: Mapping[str, float]
    """Name (`raybc.inference.offline_measures.MEASURES`) -> value of every measure that costs nothing beside the
    error (`CHEAP`)."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON values; nan becomes None."""
        return {
            "error": self.error,
            "interval": None if self.interval is None else list(self.interval),
            "rmse": self.rmse_A.tolist(),
            "step_error": [None if math.isnan(value) else value for value in self.step_error_H.tolist()],
            "episodes": list(self.episodes),
            "episode_error": self.episode_error_E.tolist(),
            "windows": self.windows,
            "metric": self.metric,
            "score": self.score,
            "score_interval": None if self.score_interval is None else list(self.score_interval),
            "measures": dict(self.measures),
        }


def offline_error(
    agent: Agent,
    store: EpisodeStore,
    episodes: np.ndarray,
    setting: SampleSetting,
    seed: int = 0,
    metric: str = "valid_error",
) -> OfflineError:
    """Predict the chunks of held-out episodes from the recorded observations and compare them with the recorded
    actions.

    Args:
        agent: the policy.
        store: the data, with the observations that the policy sees.
        episodes: numbers of the held-out episodes, int64 (E,).
        setting: how actions are sampled.
        seed: of the sampling noise (see `predict`).
        metric: what `score` is, one of the metrics without episodes (`raybc.metric.METRICS`).

    Raises `UserError` without episodes, and where no recorded action ever changes.
    """
    name = measure_of(metric)
    wanted = MEASURES[name]
    predicted = predict(
        agent, store, episodes, setting, seed=seed, samples=wanted.samples, is_shifted=wanted.is_shifted
    )
    squared_BHA, scaled_BH = predicted.errors_KBHA[0] ** 2, predicted.scaled_squares_KBH[0]
    counts_H = (~np.isnan(scaled_BH)).sum(0)
    step_H = np.divide(np.nansum(scaled_BH, 0), counts_H, out=np.full(len(counts_H), np.nan), where=counts_H > 0)
    found = {key: MEASURES[key].of_episodes(predicted) for key in dict.fromkeys(("error", *CHEAP, name))}
    values = {key: MEASURES[key].value(episode_E) for key, episode_E in found.items()}
    return OfflineError(
        error=values["error"],
        interval=_interval(found["error"], is_root=True),
        rmse_A=np.sqrt(np.nanmean(squared_BHA[:, : predicted.executed], axis=(0, 1))),
        step_error_H=np.sqrt(step_H),
        episode_error_E=np.sqrt(found["error"]),
        episodes=tuple(int(episode) for episode in episodes),
        windows=len(predicted.episode_B),
        metric=metric,
        score=values[name],
        score_interval=_interval(found[name], wanted.root),
        measures={key: values[key] for key in CHEAP},
    )


def _interval(episode_E: np.ndarray, is_root: bool) -> tuple[float, float] | None:
    """95 % interval over episodes (Student's t), from their numbers before the root."""
    known = episode_E[~np.isnan(episode_E)]
    spread = float(known.std(ddof=1)) if len(known) > 1 else None
    interval = mean_interval(float(known.mean()), spread, len(known))
    if interval is None:
        return None
    low, high = max(0.0, interval[0]), interval[1]
    return (math.sqrt(low), math.sqrt(high)) if is_root else (low, high)
