"""robosuite's tasks seen by cameras, with the names and sizes of robomimic's image sets.

An image is called CAMERA_image, uint8 (height, width, 3), upright. It shows the state after a step, like the other
observations. Images are rendered without reflections, which take half of the time in software and tell little; that and
the GL library are part of the environment's identity.

Everything else is as in `raybc.envs.robosuite`. To add a task: a line at the foot of this file and one in
`raybc.registry.TASKS`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from raybc.envs import robosuite, robosuite_experts, robosuite_joints
from raybc.envs.base import Obs, RenderOptions, Task
from raybc.envs.robosuite import RobosuiteEnv
from raybc.envs.seen import no_camera

#: Height and width of robomimic's images, but for ToolHang.
SIZE = (84, 84)
SUFFIX = "_image"
#: Other modules whose code decides demonstrations of the tasks here (`raybc.demos.spec`).
DEMOS_ALSO = (robosuite, robosuite_experts)


class CameraEnv(RobosuiteEnv):
    """A `RobosuiteEnv` that also observes images. eyes: names of its cameras. size: (height, width) in pixels. Other
    arguments: see there."""

    _ready = False

    def __init__(
        self,
        env_name: str,
        obs_keys: Sequence[str],
        render: RenderOptions | None = None,
        robots: Sequence[str] = ("Panda",),
        settings: Mapping[str, Any] | None = None,
        *,
        eyes: Sequence[str],
        size: tuple[int, int] = SIZE,
    ) -> None:
        super().__init__(env_name, obs_keys, render, robots, settings)
        unknown = [eye for eye in eyes if eye not in self.cameras()]
        if unknown:
            raise no_camera(env_name, unknown[0], self.cameras())
        self._eyes, self._size = tuple(eyes), size
        height, width = size
        if render is None:
            self._add_offscreen_context(RenderOptions(width, height))
        self._ready = True
        images = {eye + SUFFIX: gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8) for eye in self._eyes}
        self.observation_space = gymnasium.spaces.Dict({**self.observation_space.spaces, **images})

    def _obs(self, values: Mapping[str, np.ndarray]) -> Obs:
        obs = super()._obs(values)
        if self._ready:  # not yet while the environment is being made
            obs |= {eye + SUFFIX: self._image(eye, *self._size) for eye in self._eyes}
        return obs

    def env_args(self) -> dict[str, Any]:
        """As robomimic's image sets name the cameras."""
        args = super().env_args()
        eyes = list(self._eyes)
        sizes = {"camera_heights": self._size[0], "camera_widths": self._size[1]}
        args["env_kwargs"] |= {"use_camera_obs": True, "camera_names": eyes, **sizes}
        return args

    def identity(self) -> dict[str, str]:
        how = f"{self._size[0]}x{self._size[1]} {os.environ.get('MUJOCO_GL', 'default')}, no reflections"
        return {**super().identity(), "images": f"{','.join(self._eyes)} {how}"}


def _task(task: Task, eyes: Sequence[str] = ("agentview", "robot0_eye_in_hand"), size: tuple[int, int] = SIZE) -> Task:
    """`task`, one of `raybc.envs.robosuite`, with images."""
    make = task.make
    assert isinstance(make, functools.partial)
    images = tuple(eye + SUFFIX for eye in eyes)
    return dataclasses.replace(
        task,
        name=f"{task.name}_pixels",
        make=functools.partial(CameraEnv, *make.args, **make.keywords, eyes=tuple(eyes), size=size),
        obs_keys=(*task.obs_keys[:-1], *images),  # robomimic's image policies do not see `object`
        images=images,
        slots=1,  # environments that share a process must not render in turns (raybc.envs.gl)
        see=lambda other_eyes, other_size: _task(task, tuple(other_eyes) or tuple(eyes), other_size or size),
    )


_TWO_ARMS = ("shouldercamera0", "robot0_eye_in_hand", "shouldercamera1", "robot1_eye_in_hand")
LIFT_PIXELS = _task(robosuite.LIFT)
CAN_PIXELS = _task(robosuite.CAN)
SQUARE_PIXELS = _task(robosuite.SQUARE)
TRANSPORT_PIXELS = _task(robosuite.TRANSPORT, _TWO_ARMS)
TOOL_HANG_PIXELS = _task(robosuite.TOOL_HANG, ("sideview", "robot0_eye_in_hand"), size=(240, 240))
LIFT_JOINTS_PIXELS = _task(robosuite_joints.LIFT_JOINTS)
CAN_JOINTS_PIXELS = _task(robosuite_joints.CAN_JOINTS)
SQUARE_JOINTS_PIXELS = _task(robosuite_joints.SQUARE_JOINTS)
