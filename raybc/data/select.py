"""Parts of a store, as arrays of episode numbers: nothing is copied. `sparse_rewards` changes rewards only.

Functions take the episodes to choose from, int64, and return at least one of them in ascending order. They raise
`UserError` for proportions outside (0, 1].
"""

from __future__ import annotations

import dataclasses

import numpy as np

from raybc.data.episodes import VALIDATION, EpisodeStore
from raybc.data.splits import held_out, listed, overlap
from raybc.types import UserError


def splits_of(store: EpisodeStore, holdout_seed: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Episodes for training and for the validation loss (possibly none), int64.

    holdout_seed: hold out 20 % of all episodes, chosen with this seed; -1: the data's own splits. Raises `UserError` if
    the training split is empty, or shares episodes with a held-out one.
    """
    if holdout_seed >= 0:
        return hold_out(np.arange(store.num_episodes), holdout_seed)
    shared = overlap(store.splits)
    if shared is not None:
        name, episodes = shared
        raise UserError(
            f"{store.source}: splits: expected train and {name} without common episodes, got {len(episodes)} in both: "
            f"{listed(episodes)}; correct the splits, or draw others with --holdout_seed=0"
        )
    train = store.split("train")
    if not len(train):
        held = [name for name in held_out(store.splits) if len(store.splits[name])]
        where = f"; all are held out in {', '.join(held)}: draw other splits with --holdout_seed=0" if held else ""
        raise UserError(f"{store.source}: mask/train: expected at least one episode to train on, got none{where}")
    valid = next((store.splits[name] for name in VALIDATION if name in store.splits), np.zeros(0, np.int64))
    return train, np.asarray(valid)


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
    return best_by(returns(store), episodes, percent)


def best_by(goodness_E: np.ndarray, episodes: np.ndarray, percent: float) -> np.ndarray:
    """The `percent` (0 < p <= 100) of the episodes with the highest values; of equal ones the earlier.

    goodness_E: float64 (E,), of all episodes of the store.
    """
    chosen = np.sort(episodes)
    order = np.argsort(-goodness_E[chosen], kind="stable")
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
