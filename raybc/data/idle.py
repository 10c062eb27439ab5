"""Idle steps: no motion is commanded and the gripper stays as it was, as in pauses of people at a keyboard or mouse.

Policies learn to pause from them. Users of LIBERO leave them out (OpenVLA's `is_noop`: the norm of all but the gripper
is below 1e-4, and the gripper is unchanged). But an arm still moves for some steps after a command, and a gripper takes
time to close, or to open at the start of an episode: the first idle steps of a pause may matter. `raybc data verify
--replay` shows whether demonstrations succeed without them.
Letters: N transitions, A action dim.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.lazy import rows_of

#: Norm of the motion below which a step is idle.
STILL = 1e-4


def commands(actions_NA: np.ndarray) -> np.ndarray:
    """bool (A,): dimensions that hold a state, such as a gripper's open and closed, instead of a motion: they have at
    most two values."""
    return np.array([len(np.unique(column)) <= 2 for column in actions_NA.T], bool)


def idle_steps(actions_NA: np.ndarray, episode_ends: np.ndarray, commands_A: np.ndarray | None = None) -> np.ndarray:
    """bool (N,): whether a step is idle.

    episode_ends: int64 (E,), exclusive. commands_A: as `commands` returns it; None: of these actions. No step is idle
    where all dimensions hold a state, or where actions are absolute (they rarely are zero).
    """
    held = commands(actions_NA) if commands_A is None else commands_A
    if held.all():
        return np.zeros(len(actions_NA), bool)
    still = np.linalg.norm(actions_NA[:, ~held].astype(np.float64), axis=1) < STILL
    same = np.ones(len(actions_NA), bool)
    same[1:] = (actions_NA[1:, held] == actions_NA[:-1, held]).all(axis=1)
    same[np.concatenate([[0], episode_ends[:-1]])] = True  # nothing came before the first step
    idle: np.ndarray = still & same
    return idle


def without_idle(store: EpisodeStore, keep: int = 0) -> EpisodeStore:
    """`store` without its idle steps; of an episode that is idle throughout the first step is kept. Copies what is
    left into memory, except images of videos.

    keep: number of idle steps that stay at the beginning of each pause, also of one that begins an episode.
    """
    idle = idle_steps(store.actions_NA, store.episode_ends)
    rows = np.arange(len(idle))
    before = np.where(idle, -1, rows)  # the last row before a pause
    before[store.episode_starts] = np.where(idle[store.episode_starts], store.episode_starts - 1, store.episode_starts)
    idle &= rows - np.maximum.accumulate(before) > keep
    lengths = np.add.reduceat(~idle, store.episode_starts)
    idle[store.episode_starts[lengths == 0]] = False
    if not idle.any():
        return store
    kept = np.flatnonzero(~idle)
    ends = np.cumsum(np.add.reduceat(~idle, store.episode_starts)).astype(np.int64)
    return dataclasses.replace(
        store,
        obs={name: rows_of(array, kept) for name, array in store.obs.items()},
        actions_NA=store.actions_NA[kept],
        rewards_N=store.rewards_N[kept],
        terminals_N=None if store.terminals_N is None else store.terminals_N[kept],
        states_NS=None if store.states_NS is None else store.states_NS[kept],
        episode_ends=ends,
        checked=True,
    )
