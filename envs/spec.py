"""What an environment is: sizes, names, versions and a few starts; read once, before anything is started."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raybc.envs.base import Obs, SimEnv, Task
from raybc.envs.border import ObservationCheck, calling
from raybc.types import UserError

#: Number of starts to record.
STARTS = 3


@dataclass(frozen=True)
class EnvSpec:
    """What one simulator of a task reports."""

    obs_sizes: dict[str, int]
    """Low-dimensional observation -> size."""
    action_size: int
    """A, the dimensions of an action."""
    identity: dict[str, str]
    """Names and versions that a score depends on (`SimEnv.identity`)."""
    env_args: dict[str, Any]
    """robomimic's description of the environment (`SimEnv.env_args`)."""
    images: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Image observation -> (height, width, 3)."""
    action_low: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Lowest action, float32 (A,)."""
    action_high: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Highest action, float32 (A,)."""
    cameras: tuple[str, ...] | None = None
    """Names of its cameras (`SimEnv.cameras`)."""
    instruction: str = ""
    """What the robot is asked to do, in words; "" where there are none."""
    starts: dict[str, np.ndarray] = field(default_factory=dict)
    """Low-dimensional observation -> its values at the first `STARTS` seeds that could be reset to, float32 (STARTS or
    fewer, size)."""
    first: Obs = field(default_factory=dict)
    """The whole observation at the first of these starts."""


def observation_shapes(probe: EnvSpec, keys: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of the observations `keys`: (size,) of low-dimensional ones, (height, width, channels) of images."""
    return {key: probe.images[key] if key in probe.images else (probe.obs_sizes[key],) for key in keys}


def spec_of_env(env: SimEnv, name: str) -> EnvSpec:
    """The sizes, versions and first starts of a simulator of the task `name`; resets it. Raises `UserError` where that
    fails."""
    shapes = {key: tuple(space.shape or ()) for key, space in env.observation_space.items()}
    low_dim = [key for key, shape in shapes.items() if len(shape) == 1]
    seen = _starts(env, name)
    return EnvSpec(
        obs_sizes={key: shapes[key][0] for key in low_dim},
        action_size=int(env.action_space.shape[0]),
        identity=env.identity(),
        env_args=env.env_args(),
        images={key: shape for key, shape in shapes.items() if key not in low_dim},
        action_low=env.action_space.low,
        action_high=env.action_space.high,
        cameras=env.cameras(),
        instruction=env.instruction,
        starts={key: np.stack([obs[key] for obs in seen]) for key in low_dim},
        first=seen[0],
    )


def _starts(env: SimEnv, name: str) -> list[Obs]:
    """The first `STARTS` observations. Single starts may fail (their episodes are errors), but not all of them."""
    check, seen, failed = ObservationCheck(env.observation_space), list[Obs](), list[UserError]()
    for seed in range(2 * STARTS):
        try:
            with calling(name, f"reset(seed={seed})"):
                obs, _ = env.reset(seed=seed)
                check(obs)
            seen.append(obs)
        except UserError as error:
            failed.append(error)
        if len(seen) == STARTS:
            break
    if not seen:
        raise failed[0]
    return seen


def spec_of_task(task: Task) -> EnvSpec:
    """Build the task's simulator once, look at it and close it."""
    with calling(task.name, "making a simulator", "the task's `make` is called with None"):
        env = task.make(None)
    try:
        with calling(task.name, "looking at the simulator", "raybc.testing.check_task says what it needs"):
            return spec_of_env(env, task.name)
    finally:
        with contextlib.suppress(Exception):  # of a user's code, after what it was made for
            env.close()
