"""Parts of a store, as arrays of episode numbers: nothing is copied. `sparse_rewards` changes rewards only.

Functions take the episodes to choose from, int64, and return at least one of them in ascending order. They raise
`UserError` for proportions outside (0, 1].
"""

from __future__ import annotations

import dataclasses

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.types import UserError


def first_part(episodes: np.ndarray, proportion: float) -> np.ndarray:
    """The first `proportion` (0 < p <= 1) of the episodes."""
    return np.sort(episodes)[: _count(len(episodes), proportion)]


def random_part(episodes: np.ndarray, proportion: float, seed: int) -> np.ndarray:
    """A random `proportion` of the episodes; with the same seed, smaller parts are subsets of larger ones."""
    order = np.random.default_rng(seed).permutation(len(episodes))
    return np.sort(np.sort(episodes)[order[: _count(len(episodes), proportion)]])


def hold_out(episodes: np.ndarray, seed: int, proportion: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """A random split into episodes for training and for validation, the latter `proportion` of all (0.2: 80/20).

    Both have at least one episode; raises `UserError` for fewer than two episodes.
    """
    if len(episodes) < 2:
        raise UserError(f"a split by episode: expected at least two episodes, got {len(episodes)}")
    held = random_part(episodes, proportion, seed)[: len(episodes) - 1]
    return np.setdiff1d(episodes, held), held


def successful(store: EpisodeStore, episodes: np.ndarray) -> np.ndarray:
    """The successful episodes. Raises `UserError` where success is not known, and where none succeeded."""
    chosen = np.sort(episodes)
    chosen = chosen[_success(store)[chosen]]
    if not len(chosen):
        raise UserError(f"{store.source}: only successful episodes: expected at least one, got none of {len(episodes)}")
    return chosen


def best_by_return(store: EpisodeStore, episodes: np.ndarray, percent: float) -> np.ndarray:
    """The `percent` (0 < p <= 100) of the episodes with the highest returns; of equal ones the earlier."""
    chosen = np.sort(episodes)
    order = np.argsort(-returns(store)[chosen], kind="stable")
    return np.sort(chosen[order[: _count(len(chosen), percent / 100)]])


def returns(store: EpisodeStore) -> np.ndarray:
    """The sum of rewards of each episode, float64 (E,)."""
    return np.add.reduceat(store.rewards_N, store.episode_starts, dtype=np.float64)


def sparse_rewards(store: EpisodeStore) -> EpisodeStore:
    """The same store with reward 1 at the last step of successful episodes and 0 elsewhere."""
    rewards = np.zeros(len(store.actions_NA), np.float32)
    rewards[store.episode_ends - 1] = _success(store)
    return dataclasses.replace(store, rewards_N=rewards, checked=True)


def _success(store: EpisodeStore) -> np.ndarray:
    if store.success_E is None:
        raise UserError(
            f"{store.source}: does not say which episodes succeeded (expected rewards of 0 and 1, or a mark of success)"
        )
    return store.success_E


def _count(total: int, proportion: float) -> int:
    if not 0 < proportion <= 1:
        raise UserError(f"proportion of episodes: expected above 0 and at most 1 (100 %), got {proportion:g}")
    return max(1, round(proportion * total))
