"""Scores of episodes that need no labels: length, idle time, jerk and path efficiency.

Letters: N transitions, E episodes, P dimensions of a position, T steps of one episode, A action dim.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.idle import idle_steps
from raybc.data.scores import Column
from raybc.types import UserError

#: Names of observations that are the place of a hand or robot, the first that occurs counts.
POSITIONS = (r"robot0_eef_pos", r".*(eef|ee|hand|gripper|tool|tcp)_pos(ition)?", r"(agent|robot|end_effector)_pos.*")
#: Name -> what the column means.
COLUMNS = {
    "length": Column("lower", "steps of the episode"),
    "idle": Column("lower", "share of the steps that command no motion"),
    "jerk": Column("lower", "root mean square of the third difference of the position, per step cubed"),
    "path_efficiency": Column("higher", "straight distance from start to end, divided by the length of the path"),
}


def position_key(store: EpisodeStore, chosen: str = "") -> str:
    """The observation whose path is measured: `chosen`, or the first known name; "" where there is none, so that all
    numbers that are observed are. Raises `UserError` for a name that is no observation of numbers."""
    known = [name for name in store.obs if name not in store.images]
    if chosen:
        store.check_has((chosen,))
        if chosen not in known:
            raise UserError(f"--position_key: expected an observation of numbers, got the images {chosen!r}")
        return chosen
    for pattern in POSITIONS:
        for name in known:
            if re.fullmatch(pattern, name):
                return name
    return ""


def positions(store: EpisodeStore, key: str = "") -> np.ndarray:
    """float64 (N, P): the observation `key`, or for "" all observed numbers, each divided by its standard deviation;
    data without such observations: the actions."""
    if key:
        return store.observation((key,)).astype(np.float64)
    names = tuple(name for name in sorted(store.obs) if name not in store.images)
    values = (store.observation(names) if names else store.actions_NA).astype(np.float64)
    spread = values.std(axis=0)
    return np.asarray(values / np.where(spread > 1e-9, spread, 1.0))


def jerk(path_TP: np.ndarray) -> float:
    """Root mean square of the norm of the third difference, in units of the position per step cubed; 0 for fewer than
    four steps."""
    if len(path_TP) < 4:
        return 0.0
    third = np.diff(path_TP, n=3, axis=0)
    return float(np.sqrt((third**2).sum(axis=1).mean()))


def path_efficiency(path_TP: np.ndarray) -> float:
    """Distance of the ends, divided by the length of the path between them: 1 for a straight line, 2 / pi for a half
    circle, 0 for a closed path; 1 where nothing moves."""
    length = float(np.linalg.norm(np.diff(path_TP, axis=0), axis=1).sum())
    return float(np.linalg.norm(path_TP[-1] - path_TP[0])) / length if length > 0 else 1.0


def measured(store: EpisodeStore, key: str = "") -> dict[str, np.ndarray]:
    """Column of `COLUMNS` -> float64 (E,). key: as `position_key` finds it."""
    path_NP = positions(store, key)
    idle_N = idle_steps(store.actions_NA, store.episode_ends)
    parts: Sequence[slice] = [
        slice(int(a), int(b)) for a, b in zip(store.episode_starts, store.episode_ends, strict=True)
    ]
    return {
        "length": (store.episode_ends - store.episode_starts).astype(np.float64),
        "idle": np.array([idle_N[part].mean() for part in parts]),
        "jerk": np.array([jerk(path_NP[part]) for part in parts]),
        "path_efficiency": np.array([path_efficiency(path_NP[part]) for part in parts]),
    }
