"""Recorded observations by the names that a task's environment uses, where the two differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.envs.pusht import keypoints
from raybc.envs.variant import split

Observations = Mapping[str, np.ndarray]


def _pusht(obs: Observations) -> dict[str, np.ndarray]:
    """`state` is the agent's x, y (LeRobot), or also the block's x, y, angle (Diffusion Policy), in pixels;
    `environment_state` are the block's corners (LeRobot's pusht_keypoints)."""
    named = {}
    state = obs.get("state")
    if state is not None and state.shape[1] in (2, 5):
        named["agent_pos"] = state[:, :2]
        if state.shape[1] == 5:
            named |= {"block_pose": state[:, 2:], "keypoints": keypoints(state[:, 2:]).astype(np.float32)}
    corners = obs.get("environment_state")
    if corners is not None and corners.shape[1] == 16:
        named.setdefault("keypoints", corners)
    image = obs.get("image", obs.get("img"))
    return named if image is None else named | {"pixels": image}


ADAPTERS: dict[str, Callable[[Observations], dict[str, np.ndarray]]] = {"pusht": _pusht, "pusht_pixels": _pusht}


def added(obs: Observations, task: str) -> dict[str, np.ndarray]:
    """The observations of `task` that can be computed from the recorded ones (n, ...), row by row, and are missing."""
    adapter = ADAPTERS.get(split(task)[0])
    return {k: v for k, v in adapter(obs).items() if k not in obs} if adapter is not None else {}


def for_task(store: EpisodeStore, task: str) -> EpisodeStore:
    """`store` with the missing observations of `task` added; `store` itself where there are none to add."""
    more = added(store.obs, task)
    return dataclasses.replace(store, obs={**store.obs, **more}, checked=True) if more else store
