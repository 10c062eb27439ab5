"""OCBench's tasks (package `ocbench` by Seohong Park): `ocbench-block-cpu-single-task1-v0` is its environment
`block-cpu-single-task1-v0`.

The package simulates each task twice: on the CPU with MuJoCo (`-cpu-` in the name) and on a GPU with MuJoCo Warp. Its
solvers differ, so scores of one are not scores of the other; names without `-cpu-` are those of
`raybc.envs.ocbench_warp`. Tasks with `-lite-` have 10 actions a second instead of 50.

Its simulators live in an environment of their own (`raybc env build ocbench`), with the MuJoCo that was current when
the package was released; Meta-World requires an older one. The module shares its last name with the package; the
simulator is imported in functions only. Names are recognised by the table `TASKS`, which a test compares with the
package's registry.

Determinism. A reset draws from the environment's own generator, which it seeds. Experts draw from numpy's global
generator: each has its own state of it, which is swapped in during a call.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np

from raybc.env.environment import Environment
from raybc.envs.base import EnvName, Expert, Obs, RenderOptions, SimEnv, Task, require
from raybc.envs.gym import GymEnv
from raybc.envs.restore import Start
from raybc.envs.seen import SUFFIX, MakeSeen, SeenEnv, with_images
from raybc.strict import did_you_mean
from raybc.types import UserError

ENVIRONMENT = Environment.of_lock(
    "ocbench",
    Path(__file__).with_name("ocbench.lock.txt"),
    megabytes=1000,
    example="ocbench-block-cpu-lite-single-task1-v0",
)
PREFIX = "ocbench-"
#: Control rates (Hz) of tasks, and of those with `-lite-`.
FPS, LITE_FPS = 50.0, 10.0
#: What simulates it, a part of the identity of a score.
PHYSICS = "MuJoCo on the CPU"
#: Cameras of the benchmark's images, and their height and width.
CAMERAS, SIZE = ("front", "side", "wrist"), (224, 224)
#: Camera -> its name in the model.
IN_MODEL = {"wrist": "ur5e/wrist"}
#: What the robot measures itself comes first in `state`: joints and their velocities (6 each), position (3), cosine and
#: sine of the yaw, opening and contact of the gripper.
ROBOT_STATE = tuple(range(19))


@dataclass(frozen=True)
class Kind:
    """What a task has in common with others."""

    family: str
    """Scene and rules: "block", "bowling", "chamber", "hanoi" or "switch"."""
    max_steps: int
    """OCBench's step limit."""
    fps: float
    """Control rate (Hz)."""


#: FAMILY-LEVEL -> number of tasks, step limit, step limit with -lite-.
_LEVELS = {
    "block-single": (1, 1250, 200),
    "block-double": (2, 2500, 400),
    "block-triple": (2, 3750, 600),
    "block-quadruple": (3, 5000, 800),
    "chamber-easy": (3, 4000, 500),
    "chamber-medium": (2, 5000, 600),
    "chamber-hard": (2, 5500, 700),
    "switch-3x3": (2, 1500, 300),
    "switch-4x4": (2, 1500, 300),
    "switch-5x5": (2, 4000, 800),
    "hanoi-single": (2, 1000, 300),
    "hanoi-double": (2, 3000, 900),
    "hanoi-triple": (2, 7000, 2100),
}


def _kinds() -> Iterator[tuple[str, Kind]]:
    for name, (count, steps, lite_steps) in _LEVELS.items():
        family, level = name.split("-")
        for number in range(1, count + 1):
            yield f"{family}-cpu-{level}-task{number}-v0", Kind(family, steps, FPS)
            yield f"{family}-cpu-lite-{level}-task{number}-v0", Kind(family, lite_steps, LITE_FPS)
    yield "bowling-cpu-task1-v0", Kind("bowling", 500, FPS)


#: By the package's name.
TASKS: dict[str, Kind] = dict(_kinds())
EXAMPLES = tuple(PREFIX + name for name in TASKS)


def parse(name: str) -> EnvName | None:
    """A task's name; None for names of other suites. Raises `UserError` for unknown tasks."""
    return EnvName(name, name, "scripted") if _known(name) else None


def task(name: str) -> Task | None:
    """The task of this name; None for names of other suites. Raises `UserError` for unknown tasks."""
    if not _known(name):
        return None
    of = name.removeprefix(PREFIX)
    kind = TASKS[of]
    return Task(
        name=name,
        suite="ocbench",
        make=functools.partial(OCBenchEnv, of, True),
        max_steps=kind.max_steps,
        obs_keys=("state",),
        fps=kind.fps,
        make_expert=MakeExpert(kind.family),
        slots=4,
        has_success=kind.family != "bowling",
        reward_range=(0.0, 1.0),
        see=functools.partial(_see, name),
        camera=CAMERAS[0],
        robot_state=ROBOT_STATE,
        environment=ENVIRONMENT,
    )


def _known(name: str) -> bool:
    """Whether it is the name of a task here; False for names of other suites."""
    if not name.startswith(PREFIX):
        return False
    if name in EXAMPLES:
        return True
    of = name.removeprefix(PREFIX)
    visual, of = of.startswith("visual-"), of.removeprefix("visual-")
    family, _, rest = of.partition("-")
    on_cpu = of if rest.startswith("cpu-") else f"{family}-cpu-{rest}"
    if on_cpu in TASKS and visual:
        own = "" if on_cpu == of else " (there are none of the simulation with MuJoCo Warp)"
        raise UserError(f"unknown task {name!r}: for images write {PREFIX}{on_cpu}@image{own}")
    if on_cpu in TASKS:
        return False  # simulated with MuJoCo Warp
    known = [*EXAMPLES, *(example.replace("-cpu-", "-", 1) for example in EXAMPLES)]
    raise UserError(f"unknown task {name!r} of OCBench: {did_you_mean(name, known)}")


def _see(name: str, cameras: Sequence[str], size: tuple[int, int] | None) -> Task:
    """The task with images, without the marks that show targets and success."""
    of_states = task(name)
    assert of_states is not None
    chosen = tuple(cameras) or CAMERAS
    make = _MakeSeen(
        functools.partial(OCBenchEnv, name.removeprefix(PREFIX), False), chosen, size or SIZE, ROBOT_STATE, name
    )
    return with_images(of_states, make, tuple(camera + SUFFIX for camera in chosen))


@dataclass(frozen=True)
class _MakeSeen(MakeSeen):
    def __call__(self, render: RenderOptions | None) -> SeenEnv:
        return _Seen(self, render)


class _Seen(SeenEnv):
    """Images, also of the wrist's camera, which has no side that is always up."""

    def _image(self, camera: str, height: int, width: int) -> np.ndarray:
        return super()._image(IN_MODEL.get(camera, camera), height, width)

    def _hangs(self, camera: str) -> bool:
        return False


class OCBenchEnv(GymEnv):
    """A task of OCBench. Actions (7,) in [-1, 1]: changes of six joint angles (1 = 0.18 rad, from the fourth on 0.36
    rad) and of the gripper (1 = 0.12 of its way, + closes), in -lite- tasks five times as much. Observations are
    OCBench's, scaled as there. The reward is 1 where the task is solved, in bowling 0.1 for each pin that falls. An
    episode ends when the task is solved, after an illegal move of a disk, and when an object has left the table.

    of: OCBench's name. marks: whether targets are shown, and solved parts in a lighter colour.
    """

    def __init__(self, of: str, marks: bool, render: RenderOptions | None = None) -> None:
        super().__init__(
            functools.partial(_make, of, marks),
            name=PREFIX + of,
            packages=("ocbench",),
            controller="joint deltas",
            render=render,
        )
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": TASKS[of].fps}

    def cameras(self) -> tuple[str, ...]:
        found, shown = super().cameras() or (), {name: camera for camera, name in IN_MODEL.items()}
        return tuple(shown.get(name, name) for name in found)

    def identity(self) -> dict[str, str]:
        """As of a `GymEnv`, and what simulates it as `physics`."""
        return super().identity() | {"physics": PHYSICS}


def _make(of: str, marks: bool, render: RenderOptions | None) -> gymnasium.Env[Any, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*DISPLAY")  # the package also imports MuJoCo's viewer
        warnings.filterwarnings("ignore", message=".*precision lowered")
        require("ocbench", "ocbench")
        size = {} if render is None else {"width": render.width, "height": render.height}
        env = gymnasium.make(of, max_episode_steps=-1, disable_env_checker=True, visualize_info=marks, **size)
        return _Whole(env, None if render is None else render.camera)


class _Whole(gymnasium.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Complete states, images of any camera, and no step limit of its own."""

    def __init__(self, env: gymnasium.Env[Any, Any], camera: str | None) -> None:
        super().__init__(env)
        self._base = cast(Any, env.unwrapped)
        self._camera = camera
        self._base._max_episode_steps = float("inf")  # of bowling
        self._base.reset(seed=0)  # compiles the model

    def render(self) -> Any:
        """uint8 (height, width, 3), upright."""
        return self._base.render(camera=None if self._camera is None else IN_MODEL.get(self._camera, self._camera))

    def own_state(self) -> np.ndarray:
        """What MuJoCo needs beside positions and velocities to continue alike, and the state of the task."""
        data = self._base.data
        solver = (data.ctrl, data.qacc_warmstart, data.eq_active, data.mocap_pos.ravel(), data.mocap_quat.ravel())
        return np.concatenate([*solver, self._of_task()]).astype(np.float64)

    def _of_task(self) -> np.ndarray:
        """Buttons, locks and places of furniture and pegs; which pins have fallen; (0,) for blocks."""
        if hasattr(self._base, "_get_dynamics_info"):
            return np.asarray(self._base._get_dynamics_info())
        return np.asarray(getattr(self._base, "_cur_button_states", getattr(self._base, "_pin_knocked", ())))

    def restore(self, start: Start) -> Any:
        import mujoco

        base, model, data = self._base, self._base.model, self._base.data
        kept = (data.ctrl, data.qacc_warmstart, data.eq_active, data.mocap_pos, data.mocap_quat)
        values = np.split(start.own, np.cumsum([array.size for array in kept]))
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = start.qpos, start.qvel
        if hasattr(base, "_set_dynamics_info"):
            base._set_dynamics_info(values[-1])
        elif hasattr(base, "_cur_button_states"):
            base._cur_button_states = np.rint(values[-1]).astype(np.int64)
            base._apply_button_states()
        elif hasattr(base, "_pin_knocked"):
            base._pin_knocked = values[-1] > 0.5
        for array, value in zip(kept, values, strict=False):
            array[:] = value.reshape(array.shape)
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        base.pre_step()
        base.post_step()
        data.qacc_warmstart[:] = values[1]  # the last of what is computed above has changed it
        return base.compute_observation()


@dataclass(frozen=True)
class MakeExpert:
    """A `Task.make_expert`."""

    family: str
    """As of `Kind`."""

    def __call__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
        return OracleExpert(self.family, env, rng, noise)


class OracleExpert(Expert):
    """The controller with which OCBench's data were collected. `noise` scales how often it intends a wrong move, which
    it corrects afterwards, and how much its speed varies between episodes; 1 as in these data. Its ways and grasps
    vary also without."""

    def __init__(self, family: str, env: SimEnv, rng: np.random.Generator, noise: float) -> None:
        assert isinstance(env, GymEnv)
        self._base = cast(Any, env._env.unwrapped)
        self._random = np.random.RandomState(int(rng.integers(2**32))).get_state()
        controller = getattr(import_module("ocbench.oracles"), f"{family.capitalize()}Controller")
        with self._own_generator():
            self._controller = controller(env=self._base)
            self._scale(noise)
            self._controller.reset(None, self._base.compute_ob_info())

    def _scale(self, noise: float) -> None:
        made = self._controller
        made._segment_dt_profile = 1.0 + noise * (made._segment_dt_profile - 1.0)
        if made._p_mistake is not None:
            made._p_mistake = min(noise * made._p_mistake, 1.0)
        if hasattr(made, "_p_mistake_range"):  # drawn at its reset
            made._p_mistake_range = tuple(min(noise * p, 1.0) for p in made._p_mistake_range)

    def act(self, obs: Obs) -> np.ndarray:
        with self._own_generator():
            action = self._controller.select_action(None, self._base.compute_ob_info())
        return np.clip(np.asarray(action, np.float32), -1.0, 1.0)

    @contextlib.contextmanager
    def _own_generator(self) -> Iterator[None]:
        """Swaps this expert's state into numpy's global generator, and the previous one back afterwards."""
        others = np.random.get_state()  # noqa: NPY002  (it is what OCBench draws from)
        np.random.set_state(self._random)  # noqa: NPY002
        try:
            yield
        finally:
            self._random = np.random.get_state()  # noqa: NPY002
            np.random.set_state(others)  # noqa: NPY002
