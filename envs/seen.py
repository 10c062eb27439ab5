"""Images of any simulator as observations: a task of states becomes one of images (`NAME@image`).

Where the simulator is MuJoCo, every camera of its model can be seen, without shadows and reflections, which are most of
the cost of software rendering; without named cameras there is MuJoCo's free one, `free`. Elsewhere there is one image,
`pixels`, as the environment renders it. What else the simulator observes is recorded with demonstrations, but a policy
sees only what the robot measures itself (`Task.robot_state`, as `robot`) and the images.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from raybc.envs.base import Expert, Obs, RenderOptions, Restorable, SimEnv, Task
from raybc.envs.convert import fit
from raybc.envs.gl import choose_gl, no_context
from raybc.strict import did_you_mean, listed
from raybc.types import UserError

#: Height and width of images in pixels, as in robomimic's image sets.
SIZE = (84, 84)
SUFFIX = "_image"
FREE, ROBOT, PIXELS = "free", "robot", "pixels"

Make = Callable[[RenderOptions | None], SimEnv]


def seer(task: Task) -> Callable[[Sequence[str], tuple[int, int] | None], Task]:
    """A `Task.see` for a task of states. Raises `UserError` for a task whose own images cannot be changed."""
    if task.images:
        raise UserError(
            f"images of {task.name}: its cameras and their size are fixed; leave out what follows @ (a step limit is "
            "possible), or resize a data set with `raybc data convert --image_height --image_width`"
        )
    if task.no_images:
        raise UserError(f"{task.name} cannot observe images: {task.no_images}")
    return functools.partial(_seen, task)


def _seen(task: Task, cameras: Sequence[str], size: tuple[int, int] | None) -> Task:
    chosen = tuple(cameras) or ((task.camera,) if task.camera else ())
    make = MakeSeen(task.make, chosen, size or SIZE, task.robot_state, task.name)
    env = make(None)
    try:
        images = tuple(key for key, space in env.observation_space.items() if len(space.shape or ()) == 3)
    finally:
        env.close()
    return with_images(task, make, images)


def with_images(task: Task, make: MakeSeen, images: tuple[str, ...]) -> Task:
    """A task of states as one of images, which are observed under these names by simulators of `make`."""
    return dataclasses.replace(
        task,
        make=make,
        make_batch=None,
        gpu_slots=0,
        make_expert=None if task.make_expert is None else _ExpertOf(task.make_expert),
        obs_keys=(*((ROBOT,) if task.robot_state else ()), *images),
        images=images,
        slots=1,  # environments that share a process must not render in turns (raybc.envs.gl)
        see=None,
    )


def no_camera(name: str, camera: str, known: Sequence[str]) -> UserError:
    """What is said of a camera that the environment `name` does not have."""
    near = did_you_mean(camera, known)
    hint = f"; {near}" if near.startswith("did you mean") else ""
    return UserError(f"camera of {name}: expected one of {listed(camera, known)}; got {camera!r}{hint}")


@dataclass(frozen=True)
class MakeSeen:
    """A `Task.make`."""

    of: Make
    """Makes the simulator of states."""
    cameras: tuple[str, ...]
    """(): the first camera of the model."""
    size: tuple[int, int]
    """Height, width."""
    robot_state: tuple[int, ...]
    """See `Task`."""
    name: str
    """Of the task, for messages."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """What else decides what is made (`raybc.demos.spec`)."""
        return (self.of,)

    def __call__(self, render: RenderOptions | None) -> SeenEnv:
        return SeenEnv(self, render)


@dataclass(frozen=True)
class _ExpertOf:
    """The expert of a task of states, which it sees in the simulator below the images."""

    of: Callable[[SimEnv, np.random.Generator, float], Expert]

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.of,)

    def __call__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
        return self.of(env.inner if isinstance(env, SeenEnv) else env, rng, noise)


class SeenEnv(SimEnv):
    """A simulator whose observations include images."""

    def __init__(self, how: MakeSeen, render: RenderOptions | None) -> None:
        choose_gl()
        self._how, self._render, self._height, self._width = how, render, *how.size
        self.inner = how.of(None)
        physics: tuple[Any, Any] = getattr(self.inner, "physics", (None, None))
        self._model, self._data = physics
        self._mujoco: ModuleType | None = None
        self._renderers: dict[tuple[int, int], Any] = {}
        if self._data is None:  # it renders by itself, at the size that it is made with
            self.inner.close()
            self.inner = how.of(RenderOptions(self._width, self._height))
            if how.cameras:
                raise UserError(f"camera of {how.name}: this simulator has no named cameras, got {how.cameras[0]!r}")
            self._eyes: tuple[str, ...] = ()
        else:
            import mujoco

            self._mujoco = mujoco
            self._eyes = how.cameras or (self._named()[:1] or (FREE,))
            self._check(self._eyes)
            if render is not None and render.camera is not None:
                self._check((render.camera,))
            self._model.vis.global_.offwidth = max(self._width, render.width if render else 0)
            self._model.vis.global_.offheight = max(self._height, render.height if render else 0)
        self.action_space, self.metadata = self.inner.action_space, self.inner.metadata
        self.checks_observations, self.complete_state = False, self.inner.complete_state
        if render is not None:
            self.render_mode = "rgb_array"
        shape = (self._height, self._width, 3)
        added: dict[str, gymnasium.spaces.Box] = {
            name: gymnasium.spaces.Box(0, 255, shape, np.uint8)
            for name in [eye + SUFFIX for eye in self._eyes] or [PIXELS]
        }
        if how.robot_state:
            added[ROBOT] = gymnasium.spaces.Box(-np.inf, np.inf, (len(how.robot_state),), np.float32)
        self.observation_space = gymnasium.spaces.Dict({**self.inner.observation_space.spaces, **added})

    def _named(self) -> tuple[str, ...]:
        return tuple(name for name in self.inner.cameras() or () if name)

    def _check(self, cameras: Sequence[str]) -> None:
        known = (*self._named(), FREE)
        for camera in cameras:
            if camera not in known:
                raise no_camera(self._how.name, camera, known)

    def _image(self, camera: str, height: int, width: int) -> np.ndarray:
        mujoco = self._mujoco
        assert mujoco is not None
        renderer = self._renderers.get((height, width))
        if renderer is None:
            try:
                renderer = self._renderers[height, width] = mujoco.Renderer(self._model, height, width)
            except Exception as error:  # ImportError, AttributeError, GLError, ...
                raise no_context(error) from error
        renderer.update_scene(self._data, camera=-1 if camera == FREE else camera)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        frame = np.array(renderer.render())
        if camera != FREE and self._hangs(camera):
            frame = np.ascontiguousarray(frame[::-1, ::-1])
        return frame

    def _hangs(self, camera: str) -> bool:
        """Whether a camera hangs upside down (Meta-World's corners)."""
        return bool(self._data.camera(camera).xmat.reshape(3, 3)[2, 1] < 0)

    def _obs(self, obs: Mapping[str, np.ndarray]) -> Obs:
        found = dict(obs)
        for eye in self._eyes:
            found[eye + SUFFIX] = self._image(eye, self._height, self._width)
        if not self._eyes:
            found[PIXELS] = fit(np.asarray(self.inner.render()), self._width, self._height)
        if self._how.robot_state:
            found[ROBOT] = np.asarray(obs["state"], np.float32)[list(self._how.robot_state)]
        return found

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        obs, info = self.inner.reset(seed=seed, options=options)
        return self._obs(obs), info

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.inner.step(action)
        return self._obs(obs), reward, terminated, truncated, info

    def render(self) -> np.ndarray:
        """The current state as an image: uint8 (height, width, 3), upright."""
        if self._render is None:
            raise UserError(f"{self._how.name} was made without rendering; make it with RenderOptions()")
        if not self._eyes:
            return fit(np.asarray(self.inner.render()), self._render.width, self._render.height)
        return self._image(self._render.camera or self._eyes[0], self._render.height, self._render.width)

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self.inner.close()

    def cameras(self) -> tuple[str, ...] | None:
        return self.inner.cameras()

    def sim_state(self) -> np.ndarray:
        return self.inner.sim_state()

    def start_at(self, state: np.ndarray) -> Obs:
        """As that of the simulator of states. Raises `UserError` where it cannot be set to a state."""
        if not isinstance(self.inner, Restorable):
            raise UserError(f"{self._how.name} cannot be set to a recorded state")
        return self._obs(self.inner.start_at(state))

    def env_args(self) -> dict[str, Any]:
        """As robomimic's image sets name the cameras."""
        args = self.inner.env_args()
        sizes = {"camera_heights": self._height, "camera_widths": self._width}
        args["env_kwargs"] = {**args["env_kwargs"], "camera_names": list(self._eyes), **sizes}
        return args

    def identity(self) -> dict[str, str]:
        how = f"{self._height}x{self._width}"
        if self._eyes:
            how = f"{','.join(self._eyes)} {how} {os.environ.get('MUJOCO_GL', 'default')}, no shadows or reflections"
        return {**self.inner.identity(), "images": how}
