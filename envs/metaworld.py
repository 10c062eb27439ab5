"""Meta-World's 50 tasks: `metaworld-reach-v3`, `metaworld-push-v3`, ... (Sawyer arm, hand position and gripper).

The module shares its last name with the package, so inside it `metaworld` is imported in functions only.

Episodes. Meta-World's benchmarks draw 50 goals from a seed and then choose among them with another generator,
and its `reset(seed=...)` ignores the seed. Here each reset draws object and goal from the task's own distribution with
a generator that is seeded with the reset's seed (`seeded_rand_vec`). The goal is observed (`_partially_observable` is
what hides it in the meta-learning benchmarks). Observation `state` (39,): [hand (3), gripper opening, objects (14)] now
and one step ago, then the goal (3). Reward is Meta-World's dense one, 0 to 10.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from raybc.envs.base import EnvName, Expert, Obs, RenderOptions, SimEnv, Task, require
from raybc.envs.gym import GymEnv
from raybc.envs.registered import render_kwargs
from raybc.strict import did_you_mean
from raybc.types import UserError

PREFIX = "metaworld-"
EXAMPLES = ("metaworld-reach-v3", "metaworld-push-v3")
MAX_STEPS = 500  # Meta-World's own; it refuses to step further
FPS = 80.0
CAMERA = "corner2"
#: In the order of its benchmark MT50.
TASKS = (
    *("assembly", "basketball", "bin-picking", "box-close", "button-press-topdown", "button-press-topdown-wall"),
    *("button-press", "button-press-wall", "coffee-button", "coffee-pull", "coffee-push", "dial-turn"),
    *("disassemble", "door-close", "door-lock", "door-open", "door-unlock", "hand-insert", "drawer-close"),
    *("drawer-open", "faucet-open", "faucet-close", "hammer", "handle-press-side", "handle-press"),
    *("handle-pull-side", "handle-pull", "lever-pull", "pick-place-wall", "pick-out-of-hole", "pick-place"),
    *("plate-slide", "plate-slide-side", "plate-slide-back", "plate-slide-back-side", "peg-insert-side"),
    *("peg-unplug-side", "soccer", "stick-push", "stick-pull", "push", "push-wall", "push-back", "reach"),
    *("reach-wall", "shelf-place", "sweep-into", "sweep", "window-open", "window-close"),
)

#: Meta-World's benchmarks of several tasks -> their tasks, in its order.
BENCHMARKS = {
    "MT10": (
        "reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close", "button-press-topdown",
        "peg-insert-side", "window-open", "window-close",
    ),
    "MT50": TASKS,
}  # fmt: skip
SUITES = tuple(BENCHMARKS)


def tasks_of(suite: str) -> tuple[str, ...]:
    """The tasks of a benchmark. They draw goals as all tasks here do, not from its 50 fixed ones."""
    return tuple(f"{PREFIX}{short}-v3" for short in BENCHMARKS[suite])


def parse(name: str) -> EnvName | None:
    """`metaworld-TASK-v3`, with demonstrations of its expert; None for other names."""
    return EnvName(name, name, "scripted") if _short(name) is not None else None


def task(name: str) -> Task | None:
    """The task `metaworld-TASK-v3`, with Meta-World's scripted policy as its expert; None for other names."""
    short = _short(name)
    if short is None:
        return None
    return Task(
        name=name,
        suite="metaworld",
        make=functools.partial(_make, short),
        max_steps=MAX_STEPS,
        obs_keys=("state",),
        fps=FPS,
        make_expert=MakeExpert(short),
        slots=8,
        camera=CAMERA,
        robot_state=(0, 1, 2, 3),  # hand and gripper
    )


def _short(name: str) -> str | None:
    """ "push-v3" for "metaworld-push-v3"; None for names of other suites."""
    if not name.startswith(PREFIX):
        return None
    short = name.removeprefix(PREFIX)
    if not short.endswith("-v3") or short.removesuffix("-v3") not in TASKS:
        raise UserError(
            f"unknown task {name!r} of Meta-World: {did_you_mean(name, [f'{PREFIX}{t}-v3' for t in TASKS])}"
        )
    return short


def _make(short: str, render: RenderOptions | None) -> GymEnv:
    return GymEnv(
        functools.partial(_make_gymnasium, short),
        name=PREFIX + short,
        packages=("metaworld",),
        controller="mocap/position+gripper",
        render=render,
    )


def _make_gymnasium(short: str, render: RenderOptions | None) -> gymnasium.Env[Any, Any]:
    require("metaworld", "metaworld")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    kwargs = render_kwargs(render)
    if render is not None:
        kwargs.setdefault("camera_name", CAMERA)
    env = ALL_V3_ENVIRONMENTS[short](**kwargs)
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._set_task_called = True  # tasks are for the benchmarks: a pickle of a goal
    env._partially_observable = False
    env.__dict__.pop("sawyer_observation_space", None)  # cached, with a hidden goal
    env.observation_space = env.sawyer_observation_space
    return _Seeded(env)


class _Seeded(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """`reset(seed=...)` alone decides an episode; images are upright."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        env: Any = self.env
        env.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        obs, info = env.reset()
        space = env.sawyer_observation_space
        return np.clip(obs, space.low, space.high), info  # as `step` does it

    def render(self) -> Any:
        """uint8 (height, width, 3). Meta-World's corner cameras hang upside down."""
        env: Any = self.env
        frame = np.asarray(env.render())
        upright = env.data.camera(env.camera_name).xmat.reshape(3, 3)[2, 1] >= 0
        return frame if upright else frame[::-1, ::-1]


class MetaWorldExpert(Expert):
    """Meta-World's scripted policy, clipped to the action space, with temporally correlated noise from `rng`."""

    def __init__(self, policy: Any, rng: np.random.Generator, noise: float) -> None:
        self._policy = policy
        self._rng = rng
        self._gain = float(np.exp(noise * rng.uniform(-0.2, 0.05)))
        self._scale = noise * rng.uniform(0.02, 0.12)  # action units
        self._noise = np.zeros(3)

    def act(self, obs: Obs) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant.* may be too high")  # they are clipped here
            action = self._policy.get_action(obs["state"].astype(np.float64))
        action = np.clip(action, -1.0, 1.0).astype(np.float64)
        self._noise = 0.8 * self._noise + 0.6 * self._scale * self._rng.standard_normal(3)
        action[:3] = self._gain * action[:3] + self._noise  # the gripper holds or does not: noise there drops things
        return np.clip(action, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class MakeExpert:
    """A `Task.make_expert`."""

    short: str
    """Name of the task without "metaworld-"."""

    def __call__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
        from metaworld.policies import ENV_POLICY_MAP

        policy: Any = ENV_POLICY_MAP[self.short]
        return MetaWorldExpert(policy(), rng, noise)
