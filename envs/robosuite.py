"""robosuite tasks (Panda, OSC_POSE, 20 Hz) whose episodes are decided by `reset(seed=...)` alone.

The module shares its last name with the package, so inside it `import robosuite` means the simulator; it is imported
in functions only, because a process that merely lists the tasks should not pay two seconds for it.

To add a task: its step limit in `MAX_STEPS`, one `Task` at the foot of this file, an expert if there is one (in
`raybc.envs.robosuite_experts`), and a line in `raybc.registry.TASKS`.

Determinism. Resets are soft here (`hard_reset=False`: 3 ms instead of some hundred). Three things keep an episode from
being the same bit for bit whatever ran before:

- one generator, made in the constructor, feeds the joint noise, the placement samplers and the *sizes of objects*:
  its state is set on every reset, and the sizes, drawn once when the model is built, come from `MODEL_SEED`;
- MuJoCo saves as MJCF the model that was compiled last in the process: this one is saved right after it was compiled;
- robosuite builds another simulator for rendering: here the same one is built and a GL context added.

robosuite's reset rebuilds controllers, gripper and buffers, `mj_resetData` clears warm starts, and the forced
observation at reset sets the clock by which observables are sampled.

Relative observations (the first 7 dimensions of `object` in Can, Square and ToolHang) are computed from the object's
pose one control step earlier, as in robomimic's data sets. At a reset robosuite would observe zeros instead, which no
data set contains; they are measured again.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from raybc.envs.base import Expert, Obs, RenderOptions, SimEnv, Task, require
from raybc.envs.gl import choose_gl, no_context
from raybc.envs.robosuite_experts import can_expert, lift_expert, square_expert
from raybc.strict import listed
from raybc.types import UserError

CONTROL_FREQ = 20  # Hz
MODEL_SEED = 0  # of the sizes of objects, which robosuite draws when it builds the model

#: Step limits of robomimic's evaluations on proficient-human data; other environments have DEFAULT_MAX_STEPS.
MAX_STEPS = {
    "Lift": 400,
    "PickPlaceCan": 400,
    "NutAssemblySquare": 400,
    "TwoArmTransport": 700,
    "ToolHang": 700,
}
DEFAULT_MAX_STEPS = 400
ROBOSUITE_TYPE = 1  # robomimic's EnvType.ROBOSUITE_TYPE

#: Observation key of robomimic -> that of robosuite, where they differ.
SOURCE_KEY = {"object": "object-state"}


@contextmanager
def quiet() -> Iterator[None]:
    """Drops robosuite's notices (about ten for each environment that is made), but not its errors."""

    def errors_only(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger = logging.getLogger("robosuite_logs")  # a filter, since robosuite sets level and handlers at import
    logger.addFilter(errors_only)
    try:
        yield
    finally:
        logger.removeFilter(errors_only)


def import_robosuite() -> ModuleType:
    """The simulator package, imported on first use."""
    choose_gl()
    with quiet():
        return require("robosuite", extra="robosuite")


def low_dim_keys(robots: int) -> tuple[str, ...]:
    """robomimic's low-dimensional observations of `robots` one-armed robots."""
    parts = ("eef_pos", "eef_quat", "gripper_qpos")
    return (*(f"robot{i}_{part}" for i in range(robots) for part in parts), "object")


class RobosuiteEnv(SimEnv):
    """One robosuite environment. Actions (A,) in [-1, 1]: per arm 3 translations (1 = 5 cm), 3 rotations (axis-angle
    in the base frame, 1 = 0.5 rad) and the gripper (-1 opens, 1 closes). Observations in metres, radians and xyzw
    quaternions. The reward is robosuite's sparse one. An episode is never `terminated`: the harness ends it.

    env_name: robosuite's name of the environment. obs_keys: observations, by robomimic's names. robots: robosuite's
    names. settings: other arguments of the environment (JSON; "controller_configs", "control_freq", ...).
    """

    def __init__(
        self,
        env_name: str,
        obs_keys: Sequence[str],
        render: RenderOptions | None = None,
        robots: Sequence[str] = ("Panda",),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._robosuite = import_robosuite()
        known = sorted(self._robosuite.ALL_ENVIRONMENTS)
        if env_name not in known:
            raise UserError(
                f"robosuite {self._robosuite.__version__} has no environment {env_name!r}; it has {', '.join(known)}"
            )
        self._kwargs: dict[str, Any] = {
            "control_freq": CONTROL_FREQ,
            "reward_shaping": False,
            **(settings or {}),
            "robots": list(robots),
            "has_renderer": False,
            "has_offscreen_renderer": False,  # see _add_offscreen_context
            "use_camera_obs": False,
            "use_object_obs": True,
            "ignore_done": True,
            "hard_reset": False,
            "seed": MODEL_SEED,
        }
        with quiet():
            if "controller_configs" not in self._kwargs:
                default = self._robosuite.load_composite_controller_config(robot=robots[0])
                self._kwargs["controller_configs"] = default
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
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self._kwargs["control_freq"]}
        self._render_options = render
        self._camera = ""
        if render is not None:
            self.render_mode = "rgb_array"
            self._camera = render.camera or "agentview"
            if self._camera not in self.cameras():
                expected = listed(str(self._camera), self.cameras())
                raise UserError(f"camera of {env_name}: expected one of {expected}; got {self._camera!r}")
            self._add_offscreen_context(render)

    @property
    def simulation(self) -> Any:
        """robosuite's own environment."""
        return self._sim

    def _add_offscreen_context(self, render: RenderOptions) -> None:
        import mujoco
        from robosuite.utils.binding_utils import MjRenderContextOffscreen

        try:
            context = MjRenderContextOffscreen(self._sim.sim, device_id=-1)
        except Exception as error:  # each GL library fails in its own way: ImportError, AttributeError, GLError, ...
            raise no_context(error) from error
        context.vopt.geomgroup[0] = 0  # collision shapes
        context.vopt.geomgroup[1] = 1  # what a robot looks like
        context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0  # doubles the frames/s of software rendering

    def _obs(self, values: Mapping[str, np.ndarray]) -> Obs:
        """robosuite's observations by our keys, float32 (D,), copied."""
        return {key: np.array(values[SOURCE_KEY.get(key, key)], dtype=np.float32) for key in self._obs_keys}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        # The state and not the generator is replaced: samplers and objects hold references to this one.
        self._sim.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        self._sim.reset()
        return self._obs(self._measure_again()), {"success": self._success()}

    def _measure_again(self) -> Mapping[str, np.ndarray]:
        """Observations of the current state, including those that are computed from others."""
        observables = self._sim._observables.values()
        clocks = [observable._time_since_last_sample for observable in observables]
        values: Mapping[str, np.ndarray] = self._sim._get_observations(force_update=True)
        for observable, clock in zip(observables, clocks, strict=True):
            observable._time_since_last_sample = clock  # a later clock would delay the observations of steps
        return values

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action of {self._env_name}: expected {self.action_space.shape} finite, got {action}")
        before = self._sim.sim.data.time
        values, reward, _, _ = self._sim.step(action)
        if not self._sim.sim.data.time > before:  # MuJoCo silently resets a diverged state to time 0
            raise RuntimeError(f"the simulation of {self._env_name} diverged at {before:.2f} s")
        return self._obs(values), float(reward), False, False, {"success": self._success()}

    def _success(self) -> bool:
        return bool(self._sim._check_success())

    def render(self) -> np.ndarray:
        """The current state as an image: uint8 (height, width, 3), upright."""
        options = self._render_options
        if options is None:
            raise UserError(f"{self._env_name} was made without rendering; make it with RenderOptions()")
        return self._image(self._camera, options.height, options.width)

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
        """[time, qpos, qvel] as float64 (1 + nq + nv,), robomimic's `states`."""
        return np.asarray(self._sim.sim.get_state().flatten(), dtype=np.float64)

    def start_at(self, state: np.ndarray) -> Obs:
        """Reset to a recorded state (S,), one of robomimic's `states`, with the model of the installed version: where
        versions differ, the robot and the sizes of objects are not those of the recording."""
        self.reset(seed=0)  # controllers, gripper and clocks
        self._set_state(state)
        for robot in self._sim.robots:  # OSC pulls idle joints towards where the episode began
            for controller in robot.composite_controller.part_controllers.values():
                controller.update_initial_joints(self._sim.sim.data.qpos[controller.qpos_index])
        return self._obs(self._measure_again())

    def observe_at(self, state: np.ndarray) -> tuple[Obs, bool]:
        """As `start_at`, without a reset: relative observations are computed from the state before."""
        self._set_state(state)
        return self._obs(self._measure_again()), self._success()

    def _set_state(self, state: np.ndarray) -> None:
        size = self.sim_state().size
        if state.shape != (size,):
            raise UserError(f"state of {self._env_name}: expected {size} values, got {state.size}: another model")
        self._sim.sim.set_state_from_flattened(np.asarray(state, np.float64))
        self._sim.sim.forward()

    def model_xml(self) -> str:
        """The compiled model as MJCF, robomimic's `model_file`."""
        return self._xml

    def env_args(self) -> dict[str, Any]:
        return {
            "env_name": self._env_name,
            "type": ROBOSUITE_TYPE,
            "env_version": self._robosuite.__version__,
            "env_kwargs": copy.deepcopy(self._kwargs),
        }

    def identity(self) -> dict[str, str]:
        import mujoco

        configs = self._kwargs["controller_configs"]
        described = [self._describe(config) for config in (configs if isinstance(configs, list) else [configs])]
        frequency = self._kwargs["control_freq"]
        return {
            "robosuite": self._robosuite.__version__,
            "mujoco": mujoco.__version__,
            "controller": "+".join(dict.fromkeys(described)) + (f"@{frequency}Hz" if frequency != CONTROL_FREQ else ""),
        }

    def _describe(self, config: Mapping[str, Any]) -> str:
        """ "BASIC/OSC_POSE", followed by the settings that differ from robosuite's defaults."""
        parts = []
        for part in config["body_parts"].values():
            default = self._robosuite.load_part_controller_config(default_controller=part["type"])
            unlike = sorted(key for key, value in part.items() if key in default and value != default[key])
            settings = ",".join(f"{key}={json.dumps(part[key])}" for key in unlike if key not in ("type", "gripper"))
            parts.append(part["type"] + (f"({settings})" if settings else ""))
        return f"{config['type']}/{'+'.join(parts)}"


def _task(
    name: str,
    env_name: str,
    robots: Sequence[str] = ("Panda",),
    max_steps: int | None = None,
    make_expert: Callable[[SimEnv, np.random.Generator, float], Expert] | None = None,
) -> Task:
    keys = low_dim_keys(len(robots))
    return Task(
        name=name,
        suite="robosuite",
        make=functools.partial(RobosuiteEnv, env_name, keys, robots=tuple(robots)),
        max_steps=max_steps or MAX_STEPS[env_name],
        obs_keys=keys,
        fps=CONTROL_FREQ,
        make_expert=make_expert,
        reward_range=(0.0, 1.0),  # the sparse one
        slots=8
        // len(robots),  # 130 MB each, of two robots 250 MB; with 4 of Lift the network takes 3 % instead of 2 %
    )


LIFT = _task("lift", "Lift", max_steps=150, make_expert=lift_expert)
CAN = _task("can", "PickPlaceCan", make_expert=can_expert)
SQUARE = _task("square", "NutAssemblySquare", make_expert=square_expert)
TRANSPORT = _task("transport", "TwoArmTransport", robots=("Panda", "Panda"))
TOOL_HANG = _task("tool_hang", "ToolHang")
