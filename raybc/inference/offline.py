"""How well a policy predicts the actions of held-out episodes: what can be measured without a simulator.

The error is not a success rate, and a lower error does not prove a better policy. It is measured through the same
`Agent` that acts in rollouts and on robots: physical observations in, physical chunks out.

Letters: N transitions, B windows, T observation steps, O observation dim, H chunk, A action dim, E episodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raybc.data.action_form import ActionForm
from raybc.data.episodes import EpisodeStore
from raybc.inference.agent import Agent
from raybc.statistics import mean_interval
from raybc.types import Observation, SampleSetting, UserError

#: Maximum number of windows of a measurement, evenly spaced over the held-out episodes.
WINDOWS = 1024
#: Windows whose observations are in memory at a time.
BATCH = 64


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
        }


def offline_error(
    agent: Agent, store: EpisodeStore, episodes: np.ndarray, setting: SampleSetting, seed: int = 0
) -> OfflineError:
    """Predict the chunks of held-out episodes from the recorded observations and compare them with the recorded
    actions.

    Args:
        agent: the policy.
        store: the data, with the observations that the policy sees.
        episodes: numbers of the held-out episodes, int64 (E,).
        setting: how actions are sampled.
        seed: of the sampling noise. The noise of a window depends on this and on its place alone, so policies and
            checkpoints are compared on the same noise.

    Raises `UserError` without episodes, and where no recorded action ever changes.
    """
    if not len(episodes):
        raise UserError(f"{store.source}: the error of actions is measured on held-out episodes, and there are none")
    form = agent.bundle.action_form
    spread_A = _spread(store, episodes, form)
    varies_A = spread_A > 0
    if not varies_A.any():
        raise UserError(f"{store.source}: the actions of the held-out episodes never change, so there is no scale")
    rows_B, episode_B = _windows(store, episodes)
    horizon, size = agent.bundle.spec.ahead, form.size
    ends_B = store.episode_ends[episode_B]
    errors_BHA = np.full((len(rows_B), horizon, size), np.nan)
    noise = np.random.default_rng([seed, 2])
    for first in range(0, len(rows_B), BATCH):
        part = slice(first, first + BATCH)
        rows = rows_B[part]
        noise_BHA = noise.standard_normal((len(rows), agent.bundle.spec.horizon, size)).astype(np.float32)
        observed = _observed(agent, store, rows, episode_B[part])
        chunks_BHA = form.encode(agent.chunks(observed, noise_BHA * np.float32(setting.eval_temperature), setting))
        steps_BH = rows[:, None] + np.arange(horizon)
        recorded_BHA = form.encode(store.actions_NA[np.minimum(steps_BH, ends_B[part, None] - 1)])
        inside_BH = steps_BH < ends_B[part, None]
        errors_BHA[part][inside_BH] = (chunks_BHA.astype(np.float64) - recorded_BHA)[inside_BH]
    squared_BHA = errors_BHA**2
    scaled_BH = (squared_BHA[..., varies_A] / spread_A[varies_A] ** 2).mean(-1)
    executed = setting.steps_between(horizon)
    window_B = np.nanmean(scaled_BH[:, :executed], axis=1)
    episode_E = np.array([window_B[episode_B == episode].mean() for episode in episodes])
    mean = float(episode_E.mean())
    spread = float(episode_E.std(ddof=1)) if len(episodes) > 1 else None
    interval = mean_interval(mean, spread, len(episodes))
    counts_H = (~np.isnan(scaled_BH)).sum(0)
    step_H = np.divide(np.nansum(scaled_BH, 0), counts_H, out=np.full(horizon, np.nan), where=counts_H > 0)
    return OfflineError(
        error=math.sqrt(mean),
        interval=None if interval is None else (math.sqrt(max(0.0, interval[0])), math.sqrt(interval[1])),
        rmse_A=np.sqrt(np.nanmean(squared_BHA[:, :executed], axis=(0, 1))),
        step_error_H=np.sqrt(step_H),
        episode_error_E=np.sqrt(episode_E),
        episodes=tuple(int(episode) for episode in episodes),
        windows=len(rows_B),
    )


def _spread(store: EpisodeStore, episodes: Sequence[int] | np.ndarray, form: ActionForm) -> np.ndarray:
    """Standard deviation of the actions of these episodes in the form that is learned, float64 (A,)."""
    parts = [store.actions_NA[store.episode_starts[e] : store.episode_ends[e]] for e in episodes]
    actions = form.encode(np.concatenate(parts)).astype(np.float64)
    spread: np.ndarray = actions.std(0)
    # A constant in float32 may have a tiny spread.
    spread[spread <= 1e-6 * np.abs(actions).max(0)] = 0
    return spread


def _windows(store: EpisodeStore, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First rows of up to `WINDOWS` evenly spaced windows, at least one of each episode, and their episodes, int64
    (B,)."""
    lengths = (store.episode_ends - store.episode_starts)[episodes]
    every = max(1.0, float(lengths.sum()) / WINDOWS)
    rows, owners = [], []
    for episode, length in zip(episodes, lengths, strict=True):
        count = max(1, int(length / every))
        steps = np.linspace(0, length - 1, count).round().astype(np.int64)
        rows.append(store.episode_starts[episode] + np.unique(steps))
        owners.append(np.full(len(rows[-1]), episode, np.int64))
    return np.concatenate(rows), np.concatenate(owners)


def _observed(agent: Agent, store: EpisodeStore, rows: np.ndarray, episodes: np.ndarray) -> Observation[np.ndarray]:
    """What the policy sees at these rows of `episodes`, physical; observations before an episode repeat its first
    one."""
    bundle, begins = agent.bundle, store.episode_starts[episodes]
    seen_BT = np.maximum(rows[:, None] + np.arange(1 - bundle.config.obs_steps, 1), begins[:, None])
    low_dim = store.observation(tuple(bundle.obs_sizes), seen_BT.ravel()).reshape(*seen_BT.shape, -1)
    # Rows of a file that is mapped from disk are read in ascending order.
    images = {name: np.stack([store.obs[name][steps] for steps in seen_BT]) for name in bundle.images}
    texts = tuple(store.tasks[episode] for episode in episodes) if store.tasks else None
    return Observation(np.ascontiguousarray(low_dim, np.float32), images, texts)
