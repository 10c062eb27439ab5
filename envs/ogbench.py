"""OGBench's environments (`cube-single-v0`, `antmaze-medium-singletask-task1-v0`, `visual-scene-v0`, ...) and the names
of its datasets (`cube-single-play-v0`, `cube-single-play-singletask-task1-v0`, `antmaze-medium-navigate-v0`).

The module shares its last name with the package, so inside it `ogbench` is imported in functions only. Names are
recognised by the table `ENVIRONMENTS`, which a test compares with the package's registry.

Goals. A goal-conditioned environment has five tasks; a reset takes task `1 + seed % 5`, and the goal is observed
(`goal`, what `state` or `pixels` would be there); `cube-single-task3-v0` is task 3 of `cube-single-v0` alone, and the
suite `cube-single-v0` all five. A singletask environment always has the task of its name and
observes no goal. Success is OGBench's; in singletask environments it is that of the state before the step, so an
episode is one step longer there.

Determinism. `reset(seed=...)` does not seed everything that OGBench draws: mazes take noise and teleports from numpy's
global generator, and the goal is observed after random steps from an action space that is seeded by the clock. Here
each environment has its own state of the global generator, which is swapped in during a call, and its action space is
seeded. The first reset also differs from later ones (the model is adjusted after its first forward pass), so the
constructor makes one.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np

from raybc.envs.base import EnvName, Obs, RenderOptions, Task, require
from raybc.envs.gym import GymEnv
from raybc.envs.ogbench_experts import MakeExpert
from raybc.envs.restore import Start, split
from raybc.envs.seen import seer
from raybc.types import UserError


@dataclass(frozen=True)
class Kind:
    """What the environments of a kind have in common."""

    data: tuple[str, ...]
    """Names of their data sets."""
    fps: float
    """Control rate (Hz)."""
    slots: int
    """`Task.slots` without images."""
    controller: str
    """What an action is, for `SimEnv.identity`."""


@dataclass(frozen=True)
class Environment:
    """One environment of OGBench."""

    kind: Kind
    """What it shares with others."""
    max_steps: int
    """OGBench's step limit."""
    visual: bool
    """Whether there is also one that observes images ("visual-")."""


MANIPULATION = Kind(("play", "noisy"), 20.0, 4, "relative position+yaw+gripper")
POINT = Kind(("navigate", "stitch", "explore"), 10.0, 16, "position")
ANT = Kind(("navigate", "stitch", "explore"), 10.0, 16, "torque")
HUMANOID = Kind(("navigate", "stitch", "explore"), 40.0, 16, "torque")

#: By name without "visual-", "-singletask" and "-v0".
ENVIRONMENTS: dict[str, Environment] = {
    **{f"pointmaze-{size}": Environment(POINT, 1000, False) for size in ("medium", "large", "giant", "teleport")},
    **{f"antmaze-{size}": Environment(ANT, 1000, True) for size in ("medium", "large", "giant", "teleport")},
    **{f"humanoidmaze-{size}": Environment(HUMANOID, 2000, True) for size in ("medium", "large", "teleport")},
    "humanoidmaze-giant": Environment(HUMANOID, 4000, True),
    **{f"antsoccer-{size}": Environment(ANT, 1000, False) for size in ("arena", "medium")},
    "cube-single": Environment(MANIPULATION, 200, True),
    "cube-double": Environment(MANIPULATION, 500, True),
    "cube-triple": Environment(MANIPULATION, 1000, True),
    "cube-quadruple": Environment(MANIPULATION, 1000, True),
    "cube-octuple": Environment(MANIPULATION, 1500, False),
    "scene": Environment(MANIPULATION, 750, True),
    **{f"puzzle-{size}": Environment(MANIPULATION, 500, True) for size in ("3x3", "4x4")},
    **{f"puzzle-{size}": Environment(MANIPULATION, 1000, True) for size in ("4x5", "4x6")},
}
#: Environments that a scripted expert of `raybc.envs.ogbench_experts` solves.
SCRIPTED = {
    **{f"cube-{count}": "cube" for count in ("single", "double", "triple", "quadruple")},
    **{f"puzzle-{size}": "puzzle" for size in ("3x3", "4x4", "4x5", "4x6")},
    "scene": "scene",
}

#: Data sets as OGBench publishes them, then environments alone: names to suggest for a misspelled one.
EXAMPLES = (
    *(
        f"{visual}{base}-{data}{task}-v0"
        for base, environment in ENVIRONMENTS.items()
        for data in environment.kind.data
        for visual in ("", "visual-")[: 1 + environment.visual]
        for task in ("", "-singletask", "-singletask-task1")
    ),
    *(f"{base}-v0" for base in ENVIRONMENTS),
)

#: Tasks of a goal-conditioned environment.
GOALS = 5
#: Goal-conditioned environments, each the suite of its tasks.
SUITES = tuple(
    f"{visual}{base}-v0"
    for base, environment in ENVIRONMENTS.items()
    for visual in ("", "visual-")[: 1 + environment.visual]
)

_NAME = re.compile(
    r"(?P<visual>visual-)?(?P<base>{})(-(?P<data>[a-z]+))??(-singletask(-task[1-5])?|-task(?P<goal>[1-5]))?-v0".format(
        "|".join(sorted(ENVIRONMENTS, key=len, reverse=True))
    )
)


def _match(name: str) -> re.Match[str] | None:
    """The parts of the name of an environment or a data set; None where there is none of that name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    environment = ENVIRONMENTS[match["base"]]
    unknown_data = match["data"] is not None and match["data"] not in environment.kind.data
    goal_of_data = match["data"] is not None and match["goal"] is not None
    if unknown_data or goal_of_data or (match["visual"] and not environment.visual):
        return None
    return match


def parse(name: str) -> EnvName | None:
    """The name of a data set, as `ogbench.make_env_and_datasets` takes it, or of an environment; None for others."""
    match = _match(name)
    if match is None:
        return None
    if match["data"] is not None:
        return EnvName(name, name[: match.start("data") - 1] + name[match.end("data") :], match["data"])
    return EnvName(name, name, "scripted" if match["base"] in SCRIPTED else "")


def tasks_of(suite: str) -> tuple[str, ...]:
    """The five tasks of a goal-conditioned environment."""
    return tuple(f"{suite.removesuffix('-v0')}-task{number}-v0" for number in range(1, GOALS + 1))


def task(name: str) -> Task | None:
    """The task of an environment's name; None for other names, also those of data sets."""
    if name.startswith("powderworld-"):
        raise UserError(f"{name}: OGBench's powderworld has discrete actions; policies here need continuous ones")
    match = _match(name)
    if match is None or match["data"] is not None:
        return None
    environment = ENVIRONMENTS[match["base"]]
    visual, goal = bool(match["visual"]), "singletask" not in name
    expert = SCRIPTED.get(match["base"])
    keys = ("pixels" if visual else "state", *(("goal",) if goal else ()))
    return Task(
        name=name,
        suite="ogbench",
        make=functools.partial(OGBenchEnv, name),
        max_steps=environment.max_steps,
        obs_keys=keys,
        images=keys if visual else (),
        fps=environment.kind.fps,
        make_expert=MakeExpert(expert) if expert is not None else None,
        slots=1 if visual else environment.kind.slots,
        see=functools.partial(_visual, name) if environment.visual and not visual else None,
    )


def _visual(name: str, cameras: Sequence[str], size: tuple[int, int] | None) -> Task:
    """OGBench's own images of the task `name`, unless cameras or a size are named."""
    of_states, of_images = task(name), task(f"visual-{name}")
    assert of_states is not None
    assert of_images is not None
    if not cameras and size is None:
        return of_images
    return seer(dataclasses.replace(of_states, see=None))(cameras, size)


class OGBenchEnv(GymEnv):
    """An environment of OGBench. Observed images are OGBench's own; `render()` returns another one, without shadows."""

    def __init__(self, name: str, render: RenderOptions | None = None) -> None:
        match = _match(name)
        assert match is not None
        self._visual = bool(match["visual"])
        super().__init__(
            functools.partial(_make, name),
            name=name,
            packages=("ogbench",),
            controller=ENVIRONMENTS[match["base"]].kind.controller,
            render=render,
        )
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": ENVIRONMENTS[match["base"]].kind.fps}

    def _prepare_rendering(self, render: RenderOptions) -> None:
        shown = self._model.light_castshadow, self._model.mat_reflectance
        kept = [array.copy() for array in shown]
        super()._prepare_rendering(render)
        if self._visual:  # what is observed must stay what the dataset's images are
            for array, value in zip(shown, kept, strict=True):
                array[:] = value

    def solved_in(self, states_TS: np.ndarray) -> bool | None:
        """By OGBench's relabelling for singletask environments; None where the goal is observed."""
        if "goal" in self.observation_space.spaces:
            return None
        from ogbench.relabel_utils import relabel_dataset

        parts = [split(self._env, self._name, state) for state in states_TS]
        rows: dict[str, Any] = {"qpos": np.stack([p.qpos for p in parts])}
        rows["button_states"] = np.stack([p.own for p in parts])
        relabel_dataset(self._name, self._env, rows)
        return bool((rows["masks"] == 0).any())


def _make(name: str, render: RenderOptions | None) -> gymnasium.Env[Any, Any]:
    require("ogbench", "ogbench")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered")  # of action bounds, which are -1 and 1
        try:
            goal = int(match["goal"] or 0) if (match := _match(name)) else 0
            registered = name.replace(f"-task{goal}-v0", "-v0") if goal else name
            return _Seeded(gymnasium.make(registered, max_episode_steps=-1, disable_env_checker=True), render, goal)
        except Exception as error:  # each GL library fails in its own way: ImportError, AttributeError, GLError, ...
            if not name.startswith("visual-"):
                raise
            raise UserError(
                f"{name} observes images and found no offscreen GL context (MUJOCO_GL="
                f"{os.environ.get('MUJOCO_GL', '')}): {error or type(error)}. Install a software renderer, `apt-get "
                "install libegl1 libgl1-mesa-dri`."
            ) from error


class _Seeded(gymnasium.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Dict observations with the goal; `reset(seed=...)` alone decides an episode; images of any size. task: the number
    of the only task; 0: all of them."""

    def __init__(self, env: gymnasium.Env[Any, Any], render: RenderOptions | None, task: int = 0) -> None:
        super().__init__(env)
        self._task = task
        self._base = cast(Any, env.unwrapped)
        self._render = render
        self._film: Any = None
        self._global = np.random.RandomState(0).get_state()
        self._goal_mode = self._base._reward_task_id is None
        self._key = "pixels" if self._base._ob_type == "pixels" else "state"
        self._goal: np.ndarray | None = None
        self._actions = env.action_space
        # Mazes have one action space; in manipulation the property makes a new, unseeded one each time.
        if isinstance(getattr(type(self._base), "action_space", None), property):
            cls, actions = type(self._base), self._actions
            self._base.__class__ = type(cls.__name__, (cls,), {"action_space": property(lambda _: actions)})
        else:
            self._actions = self._base.action_space
        first, _ = self.reset(seed=0)
        self.observation_space = gymnasium.spaces.Dict(
            {
                key: gymnasium.spaces.Box(0, 255, value.shape, np.uint8)
                if value.dtype == np.uint8
                else gymnasium.spaces.Box(-np.inf, np.inf, value.shape, np.float32)
                for key, value in first.items()
            }
        )

    @contextmanager
    def _own_generator(self) -> Iterator[None]:
        """Swaps this environment's state into numpy's global generator, and the previous one back afterwards."""
        others = np.random.get_state()  # noqa: NPY002 (it is what OGBench draws from)
        np.random.set_state(self._global)  # noqa: NPY002
        try:
            yield
        finally:
            self._global = np.random.get_state()  # noqa: NPY002
            np.random.set_state(others)  # noqa: NPY002

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self._global = np.random.RandomState(seed % 2**32).get_state()
        self._actions.seed(seed)
        options = dict(options or {})
        if self._goal_mode:
            options.setdefault("task_id", self._task or 1 + seed % self._base.num_tasks)
        with self._own_generator():
            state, info = self.env.reset(seed=seed, options=options)
        self._goal = np.asarray(info["goal"]) if self._goal_mode else None
        return self._obs(state), info

    def own_state(self) -> np.ndarray:
        """Which buttons are lit (0 or 1), of scene and puzzle; (0,) elsewhere."""
        return np.asarray(getattr(self._base, "_cur_button_states", ()), np.float64)

    def restore(self, start: Start) -> Obs:
        """OGBench's data contain no goal; it stays that of the previous reset."""
        base, more = self._base, (start.own.astype(np.int64),) if start.own.size else ()
        base.set_state(start.qpos, start.qvel, *more)
        with self._own_generator():
            return self._obs(base.compute_observation() if hasattr(base, "compute_observation") else base.get_ob())

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        with self._own_generator():
            state, reward, terminated, truncated, info = self.env.step(action)
        return self._obs(state), float(reward), terminated, truncated, info

    def _obs(self, state: Any) -> Obs:
        return {self._key: state} if self._goal is None else {self._key: state, "goal": self._goal}

    def render(self) -> Any:
        """uint8 (height, width, 3), upright."""
        import mujoco

        assert self._render is not None
        if self._film is None:
            model = self._base.model
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, self._render.width)
            model.vis.global_.offheight = max(model.vis.global_.offheight, self._render.height)
            self._film = mujoco.Renderer(model, self._render.height, self._render.width)
        camera = self._render.camera or getattr(self._base, "custom_camera", "front")
        self._film.update_scene(self._base.data, camera=camera)
        self._film.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._film.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return np.array(self._film.render())

    def close(self) -> None:
        for renderer in (
            self._film,
            getattr(self._base, "_renderer", None),
            getattr(self._base, "custom_renderer", None),
        ):
            if renderer is not None:
                renderer.close()
        self._film = None
        super().close()
