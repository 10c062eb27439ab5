"""What an environment is: sizes, names, versions and a few starts; asked once, before anything is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raybc.envs.base import SimEnv, Task

#: Starts that are looked at.
STARTS = 3


@dataclass(frozen=True)
class EnvSpec:
    """obs_sizes: low-dim observation -> size. images: image observation -> (height, width, 3). action_low,
    action_high: the action space, (A,). identity: versions that a score depends on. env_args: robomimic's. starts:
    low-dim observation -> float32 (starts, size)."""

    obs_sizes: dict[str, int]
    action_size: int
    identity: dict[str, str]
    env_args: dict[str, Any]
    images: dict[str, tuple[int, ...]] = field(default_factory=dict)
    action_low: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    action_high: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    starts: dict[str, np.ndarray] = field(default_factory=dict)


def observation_shapes(probe: EnvSpec, keys: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of the observations a policy uses: (size,) of numbers, (height, width, channels) of images."""
    return {key: probe.images[key] if key in probe.images else (probe.obs_sizes[key],) for key in keys}


def spec_of_env(env: SimEnv) -> EnvSpec:
    spaces = env.observation_space.spaces
    low_dim = [k for k, space in spaces.items() if len(space.shape) == 1]
    seen = [env.reset(seed=seed)[0] for seed in range(STARTS)]
    return EnvSpec(
        obs_sizes={k: int(spaces[k].shape[0]) for k in low_dim},
        action_size=int(env.action_space.shape[0]),
        identity=env.identity(),
        env_args=env.env_args(),
        images={k: space.shape for k, space in spaces.items() if k not in low_dim},
        action_low=env.action_space.low,
        action_high=env.action_space.high,
        starts={k: np.stack([obs[k] for obs in seen]) for k in low_dim},
    )


def spec_of_task(task: Task) -> EnvSpec:
    """Build the task's simulator once, look at it and close it."""
    env = task.make(None)
    try:
        return spec_of_env(env)
    finally:
        env.close()
