"""What every environment adapter gives: a `Task`, a `SimEnv` and, where there is one, an `Expert`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

Obs = dict[str, np.ndarray]


class SimEnv(gymnasium.Env[Obs, np.ndarray]):
    """A gymnasium environment with a dict of named low-dim observations and an honest `success`.

    `observation_space` is a `Dict` of 1-D float32 `Box`es, `action_space` a 1-D float32 `Box` in the controller's own
    units. `step` puts `success: bool` into `info` (true at that very step). The environment has no step limit of its
    own (`truncated` is always False): the harness owns the limit (`Task.max_steps`). `reset(seed=s)` alone decides
    the start: the same seed gives the same episode, whatever ran before in this process.
    """

    @abstractmethod
    def sim_state(self) -> np.ndarray:
        """The simulator's state as float64 (D,), enough to play the episode back."""

    @abstractmethod
    def env_args(self) -> dict[str, Any]:
        """robomimic's `env_args`: `env_name`, `type`, `env_version`, `env_kwargs` (JSON values only)."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Names and versions that a score depends on: simulator, physics engine, controller."""


class Expert(Protocol):
    """A scripted demonstrator; holds the state of one episode."""

    def act(self, obs: Obs) -> np.ndarray:
        """The action (A,) float32 to execute now, inside the action space."""


@dataclass(frozen=True)
class RenderOptions:
    """Offscreen pictures: uint8 (height, width, 3) from `env.render()`."""

    width: int = 256
    height: int = 256
    camera: str | None = None


@dataclass(frozen=True)
class Task:
    """A named task.

    make(render): builds the simulator (with offscreen rendering when `render` is given). make_expert(env, rng,
    noise): a fresh `Expert` for an episode that was just reset; `rng` varies how it demonstrates, `noise` scales that
    variation (1 as designed, 0 none). max_steps: the step limit
    after which an episode is a timeout. obs_keys: default low-dim observations of a policy, in order.
    fps: control rate in Hz. gl: whether `render` needs a GL library.
    """

    name: str
    suite: str
    make: Callable[[RenderOptions | None], SimEnv]
    max_steps: int
    obs_keys: tuple[str, ...]
    fps: float
    make_expert: Callable[[SimEnv, np.random.Generator, float], Expert] | None = None
    gl: bool = False
