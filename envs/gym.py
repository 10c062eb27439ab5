"""Any gymnasium environment as a `SimEnv`, and the names `gym:ID` (e.g. `gym:Pendulum-v1`).

An adapter of a simulator package is a function that makes the gymnasium environment, `GymEnv` around it and one `Task`
for each task; see `raybc.envs.d4rl`. Where a package breaks the contract (a random generator that `reset(seed=...)`
does not seed, a step limit), that function or a wrapper there corrects it, never this file.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.metadata
import io
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from raybc.envs import border, restore
from raybc.envs.base import EnvName, Obs, RenderOptions, SimEnv, Task
from raybc.envs.convert import Reader, action_space, fit
from raybc.envs.gl import choose_gl, no_context
from raybc.envs.probe import probe
from raybc.envs.registered import make_quietly, render_kwargs
from raybc.strict import did_you_mean, listed
from raybc.types import UserError

Make = Callable[[RenderOptions | None], gymnasium.Env[Any, Any]]

GYM_TYPE = 2  # robomimic's EnvType.GYM_TYPE
EXAMPLES = ("gym:Pendulum-v1", "gym:HalfCheetah-v5")
PREFIX = "gym:"
#: Step limit and frame rate (Hz) of environments that declare none.
MAX_STEPS, FPS = 1000, 30.0
#: Packages whose ids have no namespace, so that the module that registers them cannot be read off the id.
REGISTERING = ("gymnasium_robotics",)


class GymEnv(SimEnv):
    """A gymnasium environment with dict observations, an honest `success` and no step limit.

    1-D boxes become float32, images (uint8, height x width x 3) stay as they are; a bare box is called `state`, a bare
    image `pixels`. Actions are cast to the environment's dtype and not clipped.

    make: builds the environment, with `render_mode="rgb_array"` and the size when it is given `RenderOptions`; its step
    limit is ignored.
    name: its name in messages and in `env_args`.
    packages: distributions whose versions are its identity (by default the one that its class comes from).
    controller: what an action is, also a part of the identity.
    success: success from the `info` of a step; by default the first of `border.SUCCESS_NAMES` in `info`, else False.
    env_kwargs: what `env_args` records (JSON).
    render: size and camera of the images of `render`; None for an environment that does not render.
    obs_names: path of an observation ("/" between the keys of nested dicts) -> its name here, of those to keep; by
    default all are kept under their path.
    success_key: name of success in `info`, instead of one of `border.SUCCESS_NAMES`.
    """

    checks_observations = True

    def __init__(
        self,
        make: Make,
        *,
        name: str,
        packages: tuple[str, ...] = (),
        controller: str = "",
        success: Callable[[dict[str, Any]], bool] | None = None,
        env_kwargs: dict[str, Any] | None = None,
        render: RenderOptions | None = None,
        obs_names: Mapping[str, str] | None = None,
        success_key: str | None = None,
    ) -> None:
        choose_gl()  # before `make` imports MuJoCo
        self._closed = False
        self._name = name
        self._controller = controller
        self._success = success
        self.success_name = success_key
        """The name under which `info` has reported success; None: not yet."""
        self._kwargs = copy.deepcopy(env_kwargs or {})
        self._env = make(render)
        base: Any = self._env.unwrapped
        self.belongs_to_gymnasium = type(base).__module__.startswith("gymnasium.")
        self._packages = packages or (type(base).__module__.split(".")[0],)
        self.fps = float(base.metadata.get("render_fps") or FPS)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.fps}

        self._read = Reader(getattr(self._env, "observation_space", None), name, obs_names)
        self.observation_space = self._read.space
        self.images = self._read.images
        space = action_space(getattr(self._env, "action_space", None), name)
        self._action_dtype, self._action_shape = space.dtype, space.shape
        self.action_space = gymnasium.spaces.Box(
            space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32
        )
        self._model, self._data = self._mujoco()
        self.complete_state = restore.is_complete(self._env)
        self._start = self._time = 0.0
        self._options = render
        self._viewer: Any = None  # of Gymnasium's MuJoCo base class
        if render is not None:
            self.render_mode = "rgb_array"
            self._prepare_rendering(render)

    @property
    def physics(self) -> tuple[Any, Any]:
        """MuJoCo's model and data, or (None, None) of another simulator."""
        return self._model, self._data

    def _mujoco(self) -> tuple[Any, Any]:
        """The environment's `mujoco.MjModel` and `MjData`, or (None, None)."""
        base = self._env.unwrapped
        model, data = getattr(base, "model", None), getattr(base, "data", None)
        return (model, data) if type(data).__name__ == "MjData" else (None, None)

    def _prepare_rendering(self, render: RenderOptions) -> None:
        """Cheap images, and a refusal now of what would fail at the first one."""
        if self._model is None:
            if render.camera is not None:
                raise UserError(f"camera of {self._name}: this simulator has no named cameras, got {render.camera!r}")
            return
        cameras = self.cameras() or ()
        if render.camera is not None and render.camera not in cameras:
            expected = (
                f"one of {listed(str(render.camera), cameras)}" if cameras else "none (the model has no named camera)"
            )
            raise UserError(f"camera of {self._name}: expected {expected}; got {render.camera!r}")
        # Only images depend on these. Of software rendering shadows and reflections are most of the cost.
        self._model.light_castshadow[:] = 0
        self._model.mat_reflectance[:] = 0
        self._env.reset(seed=0)
        try:
            self._env.render()
        except Exception as error:  # each GL library fails in its own way: ImportError, AttributeError, GLError, ...
            raise no_context(error) from error
        base = self._env.unwrapped
        holders = (base, *(getattr(base, part, None) for part in ("ant_env", "robot_env", "point_env")))
        renderers = (getattr(holder, "mujoco_renderer", None) for holder in holders)
        self._viewer = next((renderer.viewer for renderer in renderers if renderer is not None), None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        obs, info = border.of_reset(self._env.reset(seed=seed, options=options))
        if self._data is not None:
            self._start = self._time = self._data.time
        return self._obs(obs), {"success": self._success is None and self._solved(info)}

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        action = np.array(action, dtype=self._action_dtype)  # a copy: some environments keep what they are given
        if action.shape != self._action_shape or not math.isfinite(action.dot(action)):
            raise ValueError(f"action of {self._name}: expected {self._action_shape} finite, got {action}")
        obs, reward, terminated, truncated, info = border.of_step(self._env.step(action))
        if self._data is not None:
            # MuJoCo resets a diverged state to time 0, which after the first step looks like any other.
            time = self._data.time
            if time <= self._time or (self._time == self._start and self._warned()):
                raise border.BadEnvironment(f"the simulation of {self._name} diverged at {self._time:.2f} s")
            self._time = time
        success = self._solved(info) if self._success is None else bool(self._success(dict(info)))
        found: dict[str, Any] = {"success": success}
        if truncated and self._own_limit_reached():
            found["time_limit"] = True
        return self._obs(obs), reward, terminated, truncated, found

    def _warned(self) -> bool:
        """Whether MuJoCo has met a state that is not finite since the reset."""
        kinds = importlib.import_module("mujoco").mjtWarning
        bad = [int(kind) for kind in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)]
        return bool(self._data.warning.number[bad].any())

    def _obs(self, obs: Any) -> Obs:
        """The environment's observation by our keys, copied."""
        return self._read(obs)

    def _solved(self, info: Mapping[str, Any]) -> bool:
        if self.success_name is None:
            self.success_name = border.success_name(info)
        return self.success_name is not None and border.success_in(info, self.success_name)

    def _own_limit_reached(self) -> bool:
        env: Any = self._env
        while isinstance(env, gymnasium.Wrapper):
            if isinstance(env, gymnasium.wrappers.TimeLimit):
                return bool((env._elapsed_steps or 0) >= env._max_episode_steps)
            env = env.env
        return False

    def cameras(self) -> tuple[str, ...] | None:
        return () if self._model is None else tuple(self._model.camera(i).name for i in range(self._model.ncam))

    def render(self) -> np.ndarray:
        """The current state as an image: uint8 (height, width, 3), upright."""
        if self._options is None:
            raise UserError(f"{self._name} was made without rendering; make it with RenderOptions()")
        if self._viewer is not None:
            # Gymnasium assumes that no other environment of this process has rendered or been closed meanwhile.
            self._viewer.make_context_current()
        return fit(np.asarray(self._env.render()), self._options.width, self._options.height)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # The garbage collector would free it in whichever context is current then, whose images turn black.
            if self._viewer is not None:
                self._viewer.make_context_current()
                self._viewer.con.free()
            self._env.close()

    def sim_state(self) -> np.ndarray:
        """MuJoCo's [time, qpos, qvel] and the state of the task (`raybc.envs.restore`), float64 (1 + nq + nv + K,);
        (0,) for other simulators."""
        if self._data is None:
            return np.zeros(0)
        own = restore.own_state(self._env)
        return np.concatenate([[self._data.time], self._data.qpos, self._data.qvel, own])

    def start_at(self, state: np.ndarray) -> Obs:
        """Reset to a state of `sim_state`, or to one as D4RL, OGBench and Minari record it: the same without the time.

        Raises `UserError` for a state of another size, and where this environment cannot be set to a state.
        """
        self.reset(seed=0)  # counters, and what the state does not hold
        obs = restore.begin(self._env, self._name, state)
        self._start = self._time = self._data.time
        return self._obs(obs)

    def env_args(self) -> dict[str, Any]:
        return {
            "env_name": self._name,
            "type": GYM_TYPE,
            "env_version": _version(self._packages[0]),
            "env_kwargs": copy.deepcopy(self._kwargs),
        }

    def identity(self) -> dict[str, str]:
        packages = (*self._packages, "mujoco") if self._data is not None else self._packages
        identity = {package: _version(package) for package in packages}
        return identity | ({"controller": self._controller} if self._controller else {})


def _version(package: str) -> str:
    """The version of a distribution or, where there is none of that name, of a module."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


# Names: gym:ID


def parse(name: str) -> EnvName | None:
    """`gym:ID`, a task without data (gymnasium publishes none); None for other names."""
    return EnvName(name, name) if name.startswith(PREFIX) else None


@functools.lru_cache(maxsize=256)  # an environment has to be made to find its observations
def task(name: str) -> Task | None:
    """The task `gym:ID` of any id that gymnasium knows; None for other names. Raises `UserError` for unknown ids.

    The step limit is the registered one, else 1000. Whether the task has success is read off the `info` of a reset and
    of one step.
    """
    if not name.startswith(PREFIX):
        return None
    spec = _spec(name)
    make = functools.partial(_registered_env, name)
    return task_of(name, "gymnasium", make, spec.max_episode_steps or MAX_STEPS)


def _spec(name: str) -> EnvSpec:
    """gymnasium's registration of `gym:ID`, after importing the package that registers it where the id names it."""
    choose_gl()  # packages import MuJoCo
    env_id = name.removeprefix(PREFIX)
    module, _, bare_id = env_id.rpartition(":")
    for candidate in ([module] if module else []) + ([env_id.split("/")[0]] if "/" in env_id else []) + [*REGISTERING]:
        if bare_id in gymnasium.registry:
            break
        with border.calling(name, f"importing {candidate}", "it registers the environment"):
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    importlib.import_module(candidate)
            except ModuleNotFoundError as error:
                if error.name not in (candidate, candidate.split(".")[0]):
                    raise
    if bare_id not in gymnasium.registry:
        known = [PREFIX + known_id for known_id in gymnasium.registry]
        raise UserError(
            f"unknown environment {name!r} of gymnasium {gymnasium.__version__}: {did_you_mean(name, known)}"
        )
    return gymnasium.registry[bare_id]


def of_data(env_id: str, kwargs: Mapping[str, Any]) -> Task | None:
    """The task of an environment that a data set names, with the arguments that it records; None for unknown ids.

    Only environments of gymnasium and of the packages in `REGISTERING` are made: no data set decides what is imported.
    """
    choose_gl()
    for package in REGISTERING:
        with contextlib.suppress(ModuleNotFoundError), contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module(package)
    if env_id not in gymnasium.registry:
        return None
    name, spec = PREFIX + env_id, gymnasium.registry[env_id]
    arguments = {k: v for k, v in kwargs.items() if k != "render_mode"}
    make = functools.partial(_registered_env, name, arguments=arguments)
    return task_of(name, "gymnasium", make, spec.max_episode_steps or MAX_STEPS)


def _registered_env(name: str, render: RenderOptions | None, arguments: Mapping[str, Any] | None = None) -> GymEnv:
    def make(options: RenderOptions | None) -> gymnasium.Env[Any, Any]:
        spec, kwargs = _spec(name), {**(arguments or {}), **render_kwargs(options)}
        try:
            try:
                return make_quietly(spec.id, **kwargs)
            except TypeError as error:
                if options is None or "unexpected keyword argument" not in str(error):
                    raise
            # Not on the MuJoCo base class: it renders at a fixed size.
            if options.camera is not None:
                raise UserError(f"camera of {name}: this simulator has no named cameras, got {options.camera!r}")
            return make_quietly(spec.id, **{**(arguments or {}), "render_mode": "rgb_array"})
        except (gymnasium.error.Error, ImportError) as error:  # a missing package, a version that was removed
            raise UserError(f"{name}: {' '.join(str(error).split())}") from error
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{name}: making the environment failed: {border.describe(error)}") from error

    return GymEnv(make, name=name, render=render, env_kwargs=dict(arguments or {}))


def task_of(
    name: str,
    suite: str,
    make: Callable[[RenderOptions | None], GymEnv],
    max_steps: int | None,
    has_success: bool | None = None,
) -> Task:
    """A task whose observation keys, success and control rate are read off one environment."""
    env = make(None)
    try:
        registered = getattr(env._env.spec, "max_episode_steps", None)
        steps = max_steps or (registered if registered and registered > 0 else None) or MAX_STEPS
        found = probe(env, name, steps, has_success)
        return Task(
            name=name,
            suite=suite,
            make=make,
            max_steps=steps,
            obs_keys=tuple(env.observation_space),
            fps=env.fps,
            slots=16,
            has_success=found.has_success,
            images=env.images,
            notes=found.notes,
        )
    finally:
        with contextlib.suppress(Exception):  # of a user's code, after what it was made for
            env.close()
