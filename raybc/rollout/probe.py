"""What an environment is: sizes, names and versions; asked once, before anything is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from raybc.envs.base import SimEnv, Task


@dataclass(frozen=True)
class Probe:
    """obs_sizes: observation name -> size. identity: versions that a score depends on. env_args: robomimic's."""

    obs_sizes: dict[str, int]
    action_size: int
    identity: dict[str, str]
    env_args: dict[str, Any]


def probe_env(env: SimEnv) -> dict[str, Any]:
    spaces = env.observation_space.spaces
    return asdict(
        Probe(
            obs_sizes={k: int(space.shape[0]) for k, space in spaces.items()},
            action_size=int(env.action_space.shape[0]),
            identity=env.identity(),
            env_args=env.env_args(),
        )
    )


def probe_task(task: Task) -> Probe:
    """Build the task's simulator once, look at it and close it."""
    env = task.make(None)
    try:
        return Probe(**probe_env(env))
    finally:
        env.close()
