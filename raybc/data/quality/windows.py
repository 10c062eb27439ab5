"""Windows of episodes as a classifier sees them: observations, actions, and how both change from step to step.

Letters: N transitions, D features of a step, W steps of a window, n windows, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raybc.data.episodes import EpisodeStore

#: Standard deviations beyond which a feature is clipped, so that one outlier does not rule a window.
CLIP = 10.0


@dataclass(frozen=True)
class EpisodeWindows:
    """Windows of all episodes."""

    steps_ND: np.ndarray
    """float32 (N, D): the features of each step, mean 0 and standard deviation 1 over all steps."""
    rows_nW: np.ndarray
    """int64 (n, W): the rows of each window; an episode shorter than W repeats its last step."""
    episode_n: np.ndarray
    """int64 (n,): the episode of each window, ascending."""


def windows_of(store: EpisodeStore, length: int, stride: int) -> EpisodeWindows:
    """Windows of `length` steps that begin every `stride` steps; each episode has at least one, and the last complete
    one. Images are not seen."""
    names = tuple(name for name in sorted(store.obs) if name not in store.images)
    seen = np.concatenate([store.observation(names), store.actions_NA], axis=1).astype(np.float32)
    change = np.diff(seen, axis=0, prepend=seen[:1])
    change[store.episode_starts] = 0
    # How much something changes tells more of a shaking hand than in which direction.
    steps = np.concatenate([_standard(seen), _standard(change), _standard(np.abs(change))], axis=1)
    rows, owners = [], []
    for episode, (begin, end) in enumerate(
        zip(store.episode_starts.tolist(), store.episode_ends.tolist(), strict=True)
    ):
        last = max(end - length, begin)
        firsts = np.union1d(np.arange(begin, last + 1, stride), [last])
        rows.append(np.minimum(firsts[:, None] + np.arange(length), end - 1))
        owners.append(np.full(len(firsts), episode, np.int64))
    return EpisodeWindows(steps, np.concatenate(rows), np.concatenate(owners))


def _standard(values_ND: np.ndarray) -> np.ndarray:
    mean, spread = values_ND.mean(axis=0, dtype=np.float64), values_ND.std(axis=0, dtype=np.float64)
    scaled = (values_ND - mean) / np.where(spread > 1e-6, spread, 1.0)
    return np.clip(scaled, -CLIP, CLIP).astype(np.float32)


def per_episode(values_n: np.ndarray, episode_n: np.ndarray, episodes: int) -> np.ndarray:
    """Mean over the windows of each episode, float64 (E, ...). values_n: (n, ...)."""
    sums = np.zeros((episodes, *values_n.shape[1:]), np.float64)
    np.add.at(sums, episode_n, values_n)
    counts = np.bincount(episode_n, minlength=episodes)
    return np.asarray(sums / counts.reshape(-1, *[1] * (values_n.ndim - 1)))
