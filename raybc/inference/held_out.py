"""Chunks that a policy predicts in windows of held-out episodes, beside the recorded actions.

Physical observations in, physical chunks out, through the same `Agent` that acts in rollouts and on robots.

Letters: N transitions, B windows, K samples of a window, T observation steps, H chunk, A action dim, E episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raybc.data.action_form import ActionForm
from raybc.data.episodes import EpisodeStore
from raybc.inference.agent import Agent
from raybc.inference.candidates import Noise
from raybc.types import Observation, SampleSetting, UserError

#: Maximum number of windows of a measurement, evenly spaced over the held-out episodes.
WINDOWS = 1024
#: Windows whose observations are in memory at a time.
BATCH = 64
#: Samples of a window, for measures that need several.
SAMPLES = 8


@dataclass(frozen=True)
class Predicted:
    """Predicted and recorded chunks in the form that is learned (`ActionForm`), physical."""

    chunks_KBHA: np.ndarray
    """Predicted chunks, float64. The first sample depends neither on K nor on whether `later_BHA` is there."""
    recorded_BHA: np.ndarray
    """Recorded chunks, float64; steps beyond the end of an episode repeat its last one."""
    inside_BH: np.ndarray
    """Whether a step is within its episode, bool."""
    episode_B: np.ndarray
    """Episode of each window, int64."""
    episodes: np.ndarray
    """The E episodes, int64."""
    mean_A: np.ndarray
    """Mean recorded action of the held-out episodes, float64."""
    spread_A: np.ndarray
    """Its standard deviation; 0 for a dimension that never changes."""
    executed: int
    """Steps of a chunk that are executed before the next one is sampled."""
    shift: int = 0
    """Steps between a window and that of `later_BHA`."""
    later_BHA: np.ndarray | None = None
    """Chunks predicted `shift` steps later with noise of their own, float64; nan where the episode has ended. None: not
    predicted."""

    @property
    def scaled_errors_KBHA(self) -> np.ndarray:
        """Errors over the standard deviation, without dimensions that never change; nan beyond the end."""
        varies_A = self.spread_A > 0
        return self.errors_KBHA[..., varies_A] / self.spread_A[varies_A]

    @property
    def scaled_squares_KBH(self) -> np.ndarray:
        """Mean over dimensions of squared errors over the variance; nan beyond the end."""
        varies_A = self.spread_A > 0
        mean: np.ndarray = (self.errors_KBHA[..., varies_A] ** 2 / self.spread_A[varies_A] ** 2).mean(-1)
        return mean

    @property
    def errors_KBHA(self) -> np.ndarray:
        """Physical errors; nan beyond the end."""
        return np.where(self.inside_BH[..., None], self.chunks_KBHA - self.recorded_BHA, np.nan)


def predict(
    agent: Agent,
    store: EpisodeStore,
    episodes: np.ndarray,
    setting: SampleSetting,
    *,
    seed: int = 0,
    samples: int = 1,
    is_shifted: bool = False,
    most: int = WINDOWS,
) -> Predicted:
    """Predict chunks from the recorded observations.

    Args:
        agent: the policy.
        store: the data, with the observations that the policy sees.
        episodes: numbers of the held-out episodes, int64 (E,).
        setting: how actions are sampled.
        seed: of the sampling noise. The noise of a window depends on this, its place and its sample alone, so policies
            and checkpoints are compared on the same noise.
        samples: K; 1 where the policy acts without noise, since all samples are the same.
        is_shifted: whether to predict the chunks half a chunk later, too.
        most: maximum number of windows.

    Raises `UserError` without episodes, and where no recorded action ever changes.
    """
    if not len(episodes):
        raise UserError(f"{store.source}: the error of actions is measured on held-out episodes, and there are none")
    form = agent.bundle.action_form
    mean_A, spread_A = _scale(store, episodes, form)
    if not (spread_A > 0).any():
        raise UserError(f"{store.source}: the actions of the held-out episodes never change, so there is no scale")
    rows_B, episode_B = _windows(store, episodes, most)
    spec, size = agent.bundle.spec, form.size
    horizon = spec.ahead
    if not setting.eval_temperature or "eval_temperature" not in agent.bundle.config.sample_axes:
        samples = 1
    ends_B = store.episode_ends[episode_B]
    noises = [Noise([seed, 2, k], setting.best_of_n) for k in range(samples)]
    later_noise, shift = Noise([seed, 3], setting.best_of_n), max(1, horizon // 2)
    chunks_KBHA = np.zeros((samples, len(rows_B), horizon, size))
    recorded_BHA = np.zeros((len(rows_B), horizon, size))
    later_BHA = np.full((len(rows_B), horizon, size), np.nan) if is_shifted else None
    steps_BH = rows_B[:, None] + np.arange(horizon)

    def chunks_of(observed: Observation[np.ndarray], noise: Noise) -> np.ndarray:
        shape = (len(observed.low_dim), spec.horizon, size)
        scaled = noise.draw(shape).astype(np.float32) * np.float32(setting.eval_temperature)
        return form.encode(agent.chunks(observed, scaled, setting))

    for first in range(0, len(rows_B), BATCH):
        part = slice(first, first + BATCH)
        observed = _observed(agent, store, rows_B[part], episode_B[part])
        for k, noise in enumerate(noises):
            chunks_KBHA[k, part] = chunks_of(observed, noise)
        recorded_BHA[part] = form.encode(store.actions_NA[np.minimum(steps_BH[part], ends_B[part, None] - 1)])
        if later_BHA is not None:
            rows = rows_B[part] + shift
            is_there = rows < ends_B[part]
            observed = _observed(agent, store, np.minimum(rows, ends_B[part] - 1), episode_B[part])
            later_BHA[part][is_there] = chunks_of(observed, later_noise)[is_there]
    return Predicted(
        chunks_KBHA=chunks_KBHA,
        recorded_BHA=recorded_BHA,
        inside_BH=steps_BH < ends_B[:, None],
        episode_B=episode_B,
        episodes=episodes,
        mean_A=mean_A,
        spread_A=spread_A,
        executed=setting.steps_between(horizon),
        shift=shift,
        later_BHA=later_BHA,
    )


def _scale(
    store: EpisodeStore, episodes: Sequence[int] | np.ndarray, form: ActionForm
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the actions of these episodes in the form that is learned, float64 (A,)."""
    parts = [store.actions_NA[store.episode_starts[e] : store.episode_ends[e]] for e in episodes]
    actions = form.encode(np.concatenate(parts)).astype(np.float64)
    spread: np.ndarray = actions.std(0)
    # A constant in float32 may have a tiny spread.
    spread[spread <= 1e-6 * np.abs(actions).max(0)] = 0
    return actions.mean(0), spread


def _windows(store: EpisodeStore, episodes: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """First rows of up to `most` evenly spaced windows, at least one of each episode, and their episodes, int64
    (B,)."""
    lengths = (store.episode_ends - store.episode_starts)[episodes]
    every = max(1.0, float(lengths.sum()) / most)
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
