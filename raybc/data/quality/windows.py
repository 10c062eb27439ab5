"""Windows of episodes as a classifier sees them: observations, actions, and how both change from step to step.

Letters: N transitions, D features of a step, W steps of a window, n windows, E episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raybc.data.episodes import EpisodeStore

#: Standard deviations beyond which a feature is clipped, so that one outlier does not rule a window.
CLIP = 10.0


#: Name and size of what is seen of a step: the observations, then the actions.
Signals = tuple[tuple[str, int], ...]
ACTIONS = "actions"


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of the features of a step."""

    mean_D: np.ndarray
    """float64 (D,)."""
    spread_D: np.ndarray
    """float64 (D,)."""

    @classmethod
    def of(cls, parts: Sequence[np.ndarray]) -> Standard:
        """parts: the features of all steps, float32 (N, ...) each."""
        means = [part.mean(axis=0, dtype=np.float64) for part in parts]
        return cls(np.concatenate(means), np.concatenate([part.std(axis=0, dtype=np.float64) for part in parts]))

    def apply(self, values_ND: np.ndarray) -> np.ndarray:
        """float32 (N, D): mean 0 and standard deviation 1, without outliers."""
        scaled = (values_ND - self.mean_D) / np.where(self.spread_D > 1e-6, self.spread_D, 1.0)
        return np.clip(scaled, -CLIP, CLIP).astype(np.float32)


@dataclass(frozen=True)
class EpisodeWindows:
    """Windows of all episodes."""

    steps_ND: np.ndarray
    """float32 (N, D): the features of each step, standardised."""
    rows_nW: np.ndarray
    """int64 (n, W): the rows of each window; an episode shorter than W repeats its last step."""
    episode_n: np.ndarray
    """int64 (n,): the episode of each window, ascending."""
    standard: Standard
    """How the features were standardised."""


def signals_of(store: EpisodeStore) -> Signals:
    """What is seen of a step. Images are not."""
    names = [name for name in sorted(store.obs) if name not in store.images]
    sizes = [(name, int(np.prod(store.obs[name].shape[1:]))) for name in names]
    return (*sizes, (ACTIONS, store.actions_NA.shape[1]))


def windows_of(store: EpisodeStore, length: int, stride: int, standard: Standard | None = None) -> EpisodeWindows:
    """Windows of `length` steps that begin every `stride` steps; each episode has at least one, and the last complete
    one. standard: that of other data (default: of these)."""
    names = tuple(name for name, _ in signals_of(store)[:-1])
    seen = np.concatenate([store.observation(names), store.actions_NA], axis=1).astype(np.float32)
    change = np.diff(seen, axis=0, prepend=seen[:1])
    change[store.episode_starts] = 0
    # How much something changes tells more of a shaking hand than in which direction.
    parts = seen, change, np.abs(change)
    standard = standard or Standard.of(parts)
    steps = standard.apply(np.concatenate(parts, axis=1))
    rows, owners = [], []
    for episode, (begin, end) in enumerate(
        zip(store.episode_starts.tolist(), store.episode_ends.tolist(), strict=True)
    ):
        last = max(end - length, begin)
        firsts = np.union1d(np.arange(begin, last + 1, stride), [last])
        rows.append(np.minimum(firsts[:, None] + np.arange(length), end - 1))
        owners.append(np.full(len(firsts), episode, np.int64))
    return EpisodeWindows(steps, np.concatenate(rows), np.concatenate(owners), standard)


def per_episode(values_n: np.ndarray, episode_n: np.ndarray, episodes: int) -> np.ndarray:
    """Mean over the windows of each episode, float64 (E, ...). values_n: (n, ...)."""
    sums = np.zeros((episodes, *values_n.shape[1:]), np.float64)
    np.add.at(sums, episode_n, values_n)
    counts = np.bincount(episode_n, minlength=episodes)
    return np.asarray(sums / counts.reshape(-1, *[1] * (values_n.ndim - 1)))
