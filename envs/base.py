"""What every environment adapter provides: a `Task`, a `SimEnv` and, where there is one, an `Expert`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from raybc.env.environment import Environment
from raybc.envs.batched import BatchedEnv
from raybc.extras import require_extra

Obs = dict[str, np.ndarray]


class SimEnv(gymnasium.Env[Any, np.ndarray]):
    """A gymnasium environment with a dict of named observations and an honest `success`.

    The environment has no step limit: the harness owns the limit (`Task.max_steps`). `truncated` means that the
    simulator ends the episode for a reason of its own, e.g. at a safety fence.
    """

    # gymnasium types the observations of a `Dict` space as dicts of spaces, hence `Env[Any, ...]`; here they are `Obs`.
    observation_space: gymnasium.spaces.Dict[np.ndarray]
    """1-D float32 `Box`es and, where there are images, uint8 `Box`es (height, width, 3)."""
    action_space: gymnasium.spaces.Box
    """A bounded 1-D float32 `Box` in the controller's units."""

    checks_observations: bool = False
    """Whether `reset` and `step` refuse observations that are not as declared; otherwise the harness checks them."""

    complete_state: bool = False
    """Whether a `Restorable` that starts from a state in the middle of an episode continues as that episode did. False
    where a controller, a clock or a noise process holds more than `sim_state`."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start an episode. `seed` alone decides it: the same seed gives the same episode, whatever ran before in this
        process. Adapters override this; gymnasium's own only seeds `np_random`."""
        return super().reset(seed=seed, options=options)

    instruction: str = ""
    """What the robot is asked to do, in words; "" where tasks have none."""

    @abstractmethod
    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Execute an action (A,): observations, reward, terminated, truncated, and `info`, whose `success` is true at
        the very step that solves the task (always False where the task has no success, `Task.has_success`).
        `time_limit` is true in `info` where the simulator truncated the episode for a step limit of its own."""

    def cameras(self) -> tuple[str, ...] | None:
        """Names for `RenderOptions.camera`; () where the simulator has no named cameras, None where it is not known."""
        return None

    @abstractmethod
    def sim_state(self) -> np.ndarray:
        """The simulator's state as float64 (S,), enough to replay the episode; (0,) where it cannot be read."""

    @abstractmethod
    def env_args(self) -> dict[str, Any]:
        """robomimic's `env_args`: `env_name`, `type`, `env_version`, `env_kwargs` (JSON values only)."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Names and versions that a score depends on: simulator, physics engine, controller."""


@runtime_checkable
class Restorable(Protocol):
    """An environment that can be reset to a recorded state."""

    def start_at(self, state: np.ndarray) -> Obs:
        """Reset to a recorded state (S,): one of `sim_state()`, or one in the layouts of other recorders that the
        adapter documents. Raises `UserError` for another size."""


@runtime_checkable
class StateObserver(Protocol):
    """A `Restorable` environment that can be put into the states of an episode, one after another."""

    def observe_at(self, state: np.ndarray) -> tuple[Obs, bool]:
        """The observation in the recorded state (S,) that follows the current one, and whether the task is solved in
        it. Raises `UserError` for another size."""


@runtime_checkable
class Observed(Protocol):
    """A `Restorable` environment whose state can be computed from its observations."""

    def state_of(self, obs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """A state for `start_at` from the recorded observations of one step, name -> (D,); None where they do not
        determine it. Velocities that are not observed are 0, which is right where an episode begins at rest."""


@runtime_checkable
class Judge(Protocol):
    """An environment that computes success from recorded states, for data that do not mark it."""

    def solved_in(self, states_TS: np.ndarray) -> bool | None:
        """Whether the task is solved in any of these states, each in a layout of `start_at`; None where there is no
        fixed task (the goal is drawn at each reset)."""


class Expert(Protocol):
    """A scripted demonstrator; holds the state of one episode."""

    def act(self, obs: Obs) -> np.ndarray:
        """The next action, float32 (A,), within the action space."""


@dataclass(frozen=True)
class RenderOptions:
    """Offscreen images: uint8 (height, width, 3) from `env.render()`."""

    width: int = 256
    """Pixels."""
    height: int = 256
    """Pixels."""
    camera: str | None = None
    """Name of a camera of the simulator; None for the adapter's default."""


@dataclass(frozen=True)
class Task:
    """A task with a name, and how to build its simulator."""

    name: str
    """What `raybc.registry.get_task` finds it by."""
    suite: str
    """Simulator package; a process holds simulators of one suite only."""
    make: Callable[[RenderOptions | None], SimEnv]
    """Builds a simulator, with offscreen rendering if `RenderOptions` are given."""
    max_steps: int
    """Step limit, after which an episode is a timeout."""
    obs_keys: tuple[str, ...]
    """Default observations of a policy, in order."""
    fps: float
    """Control rate (Hz)."""
    make_expert: Callable[[SimEnv, np.random.Generator, float], Expert] | None = None
    """(env, rng, noise) -> a new `Expert` for an episode that was just reset. `rng` varies how it demonstrates, `noise`
    scales that variation (1 as designed, 0 none). None: there is no expert."""
    slots: int = 1
    """Number of simulators that share a process, and the batch of their policy, while they do not render."""
    make_batch: Callable[[int], BatchedEnv] | None = None
    """(number of worlds) -> a simulator that steps them together, for processes with several slots. `make` is used for
    everything else, e.g. `raybc.envs.world.alone(make_batch)`. None: the simulators of a process are stepped one after
    another."""
    gpu_slots: int = 0
    """Number of worlds of a process that has a GPU, which simulates them; 0: it needs no GPU."""
    has_success: bool = True
    """Whether `info["success"]` means anything; elsewhere returns are the measure."""
    reference_returns: tuple[float, float] | None = None
    """Returns of a random and of an expert policy, for D4RL's normalised score `100 (R - random) / (expert -
    random)`."""
    images: tuple[str, ...] = ()
    """Those of `obs_keys` that are images."""
    reward_range: tuple[float, float] | None = None
    """Lowest and highest reward of a step; None: unknown. Where it is known, recipes can race on returns and largest
    rewards."""
    no_images: str = ""
    """Why its simulators cannot render, where that is known beforehand."""
    see: Callable[[Sequence[str], tuple[int, int] | None], Task] | None = None
    """(cameras, (height, width)) -> the same task with images of these cameras and this size; () and None stand for
    those of the task. None: `raybc.envs.seen` renders what the simulator shows."""
    camera: str = ""
    """The camera that `raybc.envs.seen` uses if none is named; "": the first one of the model."""
    robot_state: tuple[int, ...] = ()
    """Positions in `state` of what the robot measures itself (its hand, its gripper), which a policy of images sees
    beside them."""
    plane: tuple[str, str] | tuple[()] = ()
    """Two numbers of the observation that are a position in a plane, such as `("state[0]", "state[1]")`; pages show
    where episodes end in it. (): pages choose."""
    notes: tuple[str, ...] = ()
    """What users should know about the environment before they use it; commands print it."""
    instruction: str = ""
    """What the robot is asked to do, in words; "" where tasks have none."""
    environment: Environment | None = None
    """Where its simulators live, if their packages contradict raybc's (`raybc env build`); None: in any process of
    raybc. `make`, `make_expert` and `see` are called there only, and import the simulator when they are called."""


@dataclass(frozen=True)
class EnvName:
    """The parts of what users write as `env_name`."""

    name: str
    """The whole, as written."""
    task: str
    """A name that `raybc.registry.get_task` knows."""
    data: str = ""
    """The data set, as its publisher calls it ("ph", "medium-v2", "play"); "scripted" for demonstrations of the task's
    expert; "" where the name means none."""

    def __str__(self) -> str:
        return self.name


def require(module: str, extra: str) -> ModuleType:
    """Import a simulator package, or `UserError` with the line that installs it."""
    return require_extra("this task", extra, module)[0]
