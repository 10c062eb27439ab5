"""robosuite tasks (Panda, OSC_POSE, 20 Hz) whose episodes are decided by `reset(seed=...)` alone.

The module shares its last name with the package, so inside it `import robosuite` means the simulator; it is imported
in functions only, because a process that merely lists the tasks should not pay two seconds for it.

To add a task: its robomimic observation keys and step limit, one `Task` at the foot of this file, an expert if there
is one, and a line in `raybc.registry.TASKS`.

Determinism. robosuite resets softly here (`hard_reset=False`: 3 ms instead of some hundred). For an episode that is
the same bit for bit whatever ran before, this is what a soft reset does not settle, and what is done about it:

- one generator, made in the constructor, feeds the joint noise, the placement samplers and the *sizes of objects*:
  its state is set on every reset, and the sizes, drawn once when the model is built, come from `MODEL_SEED`;
- MuJoCo saves as MJCF the model that was compiled last in the process: ours is saved right after it was compiled;
- a picture is an addition: the GL context is ours, and the simulator is built the same way with and without it.

Controllers, gripper and buffers are built anew by robosuite's reset, `mj_resetData` clears warm starts, and the forced
observation at reset sets the clock by which observables are sampled.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from raybc.envs.base import Expert, Obs, RenderOptions, SimEnv, Task, require
from raybc.envs.gl import choose_gl
from raybc.types import UserError

CONTROL_FREQ = 20  # Hz
MODEL_SEED = 0  # decides the sizes of objects, which robosuite draws when it builds the model

#: Observation key of robomimic -> of robosuite, where they differ.
SOURCE_KEY = {"object": "object-state"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops robosuite's notices (about ten each time an environment is made); errors pass."""

    def errors_only(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger = logging.getLogger("robosuite_logs")  # a filter, since robosuite sets level and handlers at import
    logger.addFilter(errors_only)
    try:
        yield
    finally:
        logger.removeFilter(errors_only)


def _import_robosuite() -> ModuleType:
    """The simulator package, imported on first use."""
    choose_gl()
    with _quiet():
        return require("robosuite", extra="robosuite")


class RobosuiteEnv(SimEnv):
    """One robosuite environment. Actions (A,) in [-1, 1]: per arm 3 translations (1 = 5 cm), 3 rotations (axis-angle
    in the base frame, 1 = 0.5 rad) and the gripper (-1 opens, 1 closes). Observations in metres, radians and xyzw
    quaternions. The reward is robosuite's sparse one. An episode is never `terminated`: the harness stops it.
    """

    def __init__(
        self,
        env_name: str,
        obs_keys: Sequence[str],
        render: RenderOptions | None = None,
        robots: Sequence[str] = ("Panda",),
    ) -> None:
        self._robosuite = _import_robosuite()
        with _quiet():
            controller = self._robosuite.load_composite_controller_config(robot=robots[0])
            self._kwargs: dict[str, Any] = {
                "robots": list(robots),
                "controller_configs": controller,
                "control_freq": CONTROL_FREQ,
                "has_renderer": False,
                "has_offscreen_renderer": False,  # see _add_offscreen_context
                "use_camera_obs": False,
                "use_object_obs": True,
                "reward_shaping": False,
                "ignore_done": True,
                "hard_reset": False,
                "seed": MODEL_SEED,
            }
            # a copy, because robosuite writes simulator handles into the configuration that it is given
            self._sim = self._robosuite.make(env_name, **copy.deepcopy(self._kwargs))
        self._xml: str = self._sim.sim.model.get_xml()
        self._env_name = env_name
        self._obs_keys = tuple(obs_keys)

        low, high = self._sim.action_spec
        self.action_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        example = self._obs(self._sim.reset())
        self.observation_space = gymnasium.spaces.Dict(
            {key: gymnasium.spaces.Box(-np.inf, np.inf, value.shape, np.float32) for key, value in example.items()}
        )
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_FREQ}
        self._render_options = render
        self._camera = ""
        if render is not None:
            self.render_mode = "rgb_array"
            self._camera = render.camera or "agentview"
            cameras = self._sim.sim.model.camera_names
            if self._camera not in cameras:
                raise UserError(f"camera of {env_name}: expected one of {', '.join(cameras)}; got {self._camera!r}")
            self._add_offscreen_context(render)

    def _add_offscreen_context(self, render: RenderOptions) -> None:
        import mujoco
        from robosuite.utils.binding_utils import MjRenderContextOffscreen

        try:
            context = MjRenderContextOffscreen(self._sim.sim, device_id=-1)
        except Exception as error:  # each GL library fails in its own way: ImportError, AttributeError, GLError, ...
            raise UserError(
                f"no offscreen GL context (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}): {error or type(error)}. "
                "Install a software renderer, `apt-get install libegl1 libgl1-mesa-dri`, or `apt-get install "
                "libosmesa6` and set MUJOCO_GL=osmesa and PYOPENGL_PLATFORM=osmesa; or run without pictures."
            ) from error
        context.vopt.geomgroup[0] = 0  # collision shapes
        context.vopt.geomgroup[1] = 1  # what a robot looks like
        context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0  # doubles the frames/s of software rendering

    def _obs(self, values: Mapping[str, np.ndarray]) -> Obs:
        """Our keys of robosuite's observations, float32 (D,), in arrays of their own."""
        return {key: np.array(values[SOURCE_KEY.get(key, key)], dtype=np.float32) for key in self._obs_keys}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        # The state and not the generator is replaced: samplers and objects hold references to this one.
        self._sim.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        values = self._sim.reset()
        return self._obs(values), {"success": self._success()}

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action of {self._env_name}: expected {self.action_space.shape} finite, got {action}")
        before = self._sim.sim.data.time
        values, reward, _, _ = self._sim.step(action)
        if not self._sim.sim.data.time > before:  # MuJoCo answers a diverged state with a silent reset to time 0
            raise RuntimeError(f"the simulation of {self._env_name} diverged at {before:.2f} s")
        return self._obs(values), float(reward), False, False, {"success": self._success()}

    def _success(self) -> bool:
        return bool(self._sim._check_success())

    def render(self) -> np.ndarray:
        """The picture of the present state: uint8 (height, width, 3), upright."""
        options = self._render_options
        if options is None:
            raise UserError(f"{self._env_name} was made without rendering; make it with RenderOptions()")
        frame = self._sim.sim.render(width=options.width, height=options.height, camera_name=self._camera)
        return np.ascontiguousarray(frame[::-1])  # OpenGL's rows start at the bottom

    def close(self) -> None:
        if self._sim is not None:
            self._sim.close()
            self._sim = None

    def sim_state(self) -> np.ndarray:
        """[time, qpos, qvel] as float64 (1 + nq + nv,), robomimic's `states`."""
        return np.asarray(self._sim.sim.get_state().flatten(), dtype=np.float64)

    def model_xml(self) -> str:
        """The compiled model as MJCF, robomimic's `model_file`."""
        return self._xml

    def env_args(self) -> dict[str, Any]:
        return {
            "env_name": self._env_name,
            "type": 1,  # robomimic's EnvType.ROBOSUITE_TYPE
            "env_version": self._robosuite.__version__,
            "env_kwargs": copy.deepcopy(self._kwargs),
        }

    def identity(self) -> dict[str, str]:
        import mujoco

        controller = self._kwargs["controller_configs"]
        parts = "+".join(part["type"] for part in controller["body_parts"].values())
        return {
            "robosuite": self._robosuite.__version__,
            "mujoco": mujoco.__version__,
            "controller": f"{controller['type']}/{parts}",
        }


def _rotation(quat: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of an xyzw quaternion (4,)."""
    x, y, z, w = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


class LiftExpert:
    """Picks up the cube: above, descend, close, lift; from the start again whenever the cube is lost.

    `rng` draws a manner once per episode (approach height, gain, speed, where exactly to grasp, how long to close)
    and temporally correlated action noise; `noise` scales how far all of these stray. Actions are those to be
    executed and recorded, noise included.
    """

    OPEN, CLOSE = -1.0, 1.0
    POSITION_SCALE, ROTATION_SCALE = 0.05, 0.5  # metres and radians of one action unit (OSC_POSE)

    def __init__(self, rng: np.random.Generator, noise: float = 1.0) -> None:
        self._rng = rng

        def stray(centre: float, spread: float) -> float:
            return centre + noise * rng.uniform(-spread, spread)

        self._gain = stray(1.8, 0.6)  # actions per metre of error, in units of POSITION_SCALE
        self._speed = stray(0.75, 0.25)  # largest translation, in action units
        self._noise_scale = noise * rng.uniform(0.02, 0.15)  # action units
        self._hover = np.append(noise * rng.normal(0.0, 0.006, 2), stray(0.065, 0.025))  # metres from the cube's centre
        self._grasp = np.append(noise * rng.normal(0.0, 0.002, 2), stray(-0.002, 0.006))
        self._close_steps = int(rng.integers(4, 7))
        self._noise = np.zeros(6)
        self._lift_from = np.zeros(3)
        self._enter("above")

    def _enter(self, phase: str) -> None:
        self._phase, self._steps = phase, 0

    def act(self, obs: Obs) -> np.ndarray:
        eef = obs["robot0_eef_pos"].astype(np.float64)
        cube = obs["object"][:3].astype(np.float64)
        hand = _rotation(obs["robot0_eef_quat"].astype(np.float64))
        # Fingers open along an axis of the hand, and a cube looks the same every quarter turn: of the angle between
        # any horizontal axis of the hand and any of the cube, what is left after whole quarter turns counts.
        axes = _rotation(obs["object"][3:7].astype(np.float64))
        cube_axis = axes[:, np.argmin(np.abs(axes[2]))]  # a dropped cube may lie on another face
        yaw = np.arctan2(cube_axis[1], cube_axis[0]) - np.arctan2(hand[1, 0], hand[0, 0])
        yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
        tilt = np.cross(hand[:, 2], [0.0, 0.0, -1.0])  # rotation that turns the hand straight down

        self._advance(obs, eef, cube, abs(yaw))
        if self._phase == "above":
            target = cube + self._hover
        elif self._phase == "lift":
            target = self._lift_from + np.array([0.0, 0.0, 0.12])
            yaw = 0.0  # the cube turns with the hand: chasing it would twist both
        else:
            target = cube + self._grasp
        move = self._gain * (target - eef) / self.POSITION_SCALE
        move *= min(1.0, self._speed / max(float(np.linalg.norm(move)), 1e-9))
        turn = np.array([tilt[0], tilt[1], yaw]) / self.ROTATION_SCALE

        self._noise = 0.8 * self._noise + 0.6 * self._noise_scale * self._rng.standard_normal(6)
        grip = self.CLOSE if self._phase in ("close", "lift") else self.OPEN
        action = np.append(np.concatenate([move, turn]) + self._noise, grip)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _advance(self, obs: Obs, eef: np.ndarray, cube: np.ndarray, yaw: float) -> None:
        """Goes to the next phase when this one is done, back to the first when it failed."""
        self._steps += 1
        above, grasp = cube + self._hover - eef, cube + self._grasp - eef
        if self._phase == "above":
            if np.hypot(above[0], above[1]) < 0.015 and abs(above[2]) < 0.03 and yaw < 0.2:
                self._enter("descend")
        elif self._phase == "descend":
            if np.hypot(grasp[0], grasp[1]) > 0.03:
                self._enter("above")
            elif np.linalg.norm(grasp) < 0.012 or self._steps > 20:
                self._enter("close")
        elif self._phase == "close":
            if self._steps > self._close_steps:
                opening = float(obs["robot0_gripper_qpos"][0] - obs["robot0_gripper_qpos"][1])
                self._lift_from = eef
                self._enter("lift" if opening > 0.03 else "above")  # a cube is 4 cm wide
        elif np.linalg.norm(cube - eef) > 0.03 or self._steps > 40:
            self._enter("above")


def _lift_expert(env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
    return LiftExpert(rng, noise)


LIFT_KEYS = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object")

LIFT = Task(
    name="lift",
    suite="robosuite",
    make=functools.partial(RobosuiteEnv, "Lift", LIFT_KEYS),
    max_steps=150,
    obs_keys=LIFT_KEYS,
    fps=CONTROL_FREQ,
    make_expert=_lift_expert,
    slots=4,
)
