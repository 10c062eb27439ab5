"""What every environment adapter gives: a `Task`, a `SimEnv` and, where there is one, an `Expert`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from raybc.extras import require_extra

Obs = dict[str, np.ndarray]


class SimEnv(gymnasium.Env[Any, np.ndarray]):
    """A gymnasium environment with a dict of named observations and an honest `success`.

    The environment has no step limit (`truncated` is always False): the harness owns the limit (`Task.max_steps`).
    """

    # gymnasium types the observations of a `Dict` space as dicts of spaces, hence `Env[Any, ...]`; here they are `Obs`.
    observation_space: gymnasium.spaces.Dict[np.ndarray]
    """1-D float32 `Box`es and, where there are images, uint8 `Box`es (height, width, 3)."""
    action_space: gymnasium.spaces.Box
    """A bounded 1-D float32 `Box` in the controller's units."""

    #: Whether a `Restorable` that begins in a state from the midst of an episode goes on as that episode did: no
    #: controller, clock or noise knows more than the state.
    complete_state: bool = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start an episode. `seed` alone decides it: the same seed gives the same episode, whatever ran before in this
        process. Adapters override this; gymnasium's own only seeds `np_random`."""
        return super().reset(seed=seed, options=options)

    @abstractmethod
    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Execute an action (A,): observations, reward, terminated, False (`truncated`), and `info`, whose `success` is
        true at the very step that solves the task (always False where the task has no success, `Task.has_success`)."""

    @abstractmethod
    def sim_state(self) -> np.ndarray:
        """The simulator's state as float64 (D,), enough to play the episode back; (0,) where it cannot be read."""

    @abstractmethod
    def env_args(self) -> dict[str, Any]:
        """robomimic's `env_args`: `env_name`, `type`, `env_version`, `env_kwargs` (JSON values only)."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Names and versions that a score depends on: simulator, physics engine, controller."""


@runtime_checkable
class Restorable(Protocol):
    """An environment that can begin an episode where a recorded one began."""

    def start_at(self, state: np.ndarray) -> Obs:
        """A reset to a recorded state: what `sim_state()` gave at the start of an episode, or what the adapter says
        of states that others recorded. Raises `UserError` where it has another size."""


@runtime_checkable
class Observed(Protocol):
    """A `Restorable` environment whose observations tell its state, so that recordings of them are enough."""

    def state_of(self, obs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """A state for `start_at` from recorded observations of one step (D,), by name; None where they do not tell it.
        Velocities that are not observed are taken to be 0: right where an episode begins at rest."""


@runtime_checkable
class Judge(Protocol):
    """An environment that can tell success from recorded states, for data that do not mark it."""

    def solved_in(self, states_TS: np.ndarray) -> bool | None:
        """Whether its task is solved in any of these states, in the layout of `start_at`; None where it has no task of
        its own (the goal is drawn at each reset)."""


class Expert(Protocol):
    """A scripted demonstrator; holds the state of one episode."""

    def act(self, obs: Obs) -> np.ndarray:
        """The action (A,) float32 to execute now, inside the action space."""


@dataclass(frozen=True)
class RenderOptions:
    """Offscreen images: uint8 (height, width, 3) from `env.render()`."""

    width: int = 256
    height: int = 256
    camera: str | None = None


@dataclass(frozen=True)
class Task:
    """A named task.

    make(render): builds the simulator (with offscreen rendering when `render` is given). make_expert(env, rng,
    noise): a fresh `Expert` for an episode that was just reset; `rng` varies how it demonstrates, `noise` scales that
    variation (1 as designed, 0 none). max_steps: the step limit after which an episode is a timeout. obs_keys: default
    observations of a policy, in order. images: those of them that are images. fps: control rate in Hz. suite: name
    of the simulator package; a process holds simulators of one suite only. slots: simulators that share a process as
    long as they do not render (their policies are asked together). has_success: whether the task knows success; where
    it does not, returns are the measure. reference_returns: returns of a random and of an expert policy, for the
    D4RL-normalised score `100 (R - random) / (expert - random)`.
    """

    name: str
    suite: str
    make: Callable[[RenderOptions | None], SimEnv]
    max_steps: int
    obs_keys: tuple[str, ...]
    fps: float
    make_expert: Callable[[SimEnv, np.random.Generator, float], Expert] | None = None
    slots: int = 1
    has_success: bool = True
    reference_returns: tuple[float, float] | None = None
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnvName:
    """What users write as `env_name`, taken apart.

    name: as written. task: a name that `raybc.registry.get_task` knows. data: the dataset, as its publisher calls it
    (e.g. "ph", "medium-v2", "play"); "scripted": demonstrations of the task's expert; "": none is meant.
    """

    name: str
    task: str
    data: str = ""

    def __str__(self) -> str:
        return self.name


def require(module: str, extra: str) -> ModuleType:
    """Import a simulator package, or `UserError` with the line that installs it."""
    return require_extra("this task", extra, module)[0]
