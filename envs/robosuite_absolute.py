"""robosuite's tasks with absolute actions, as robomimic's published `*_abs` sets have them, and the way from deltas to
poses and back.

For each arm an action is the pose that its controller (OSC_POSE) moves the hand to: position (3) in metres, axis-angle
(3) in radians, and the gripper (1, as in deltas). A delta is added to where the hand is when the action begins:

    position = p + scale(delta_p),    rotation = exp(scale(delta_r)) R

with the hand's pose (p, R) in the controller's frame, by default that of the robot's base, and robosuite's scale of
5 cm and 0.5 rad a unit, beyond which deltas are clipped. So a recorded delta and the pose made of it in the recorded
state are the same to the controller.

Everything else is as in `raybc.envs.robosuite`. To add a task: a line at the foot of this file and one in
`raybc.registry.TASKS`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from raybc.envs import robosuite, robosuite_experts
from raybc.envs.base import Expert, Obs, RenderOptions, SimEnv, Task
from raybc.envs.robosuite import RobosuiteEnv, import_robosuite, quiet
from raybc.envs.robosuite_control import ABSOLUTE, OSC_POSE, with_input_type
from raybc.types import UserError

#: Metres from the origin of the controller's frame, in each direction, that the action space has.
REACH = 1.5
#: Numbers of the pose in an arm's part of an action.
POSE = 6
#: Other modules whose code decides demonstrations of the tasks here (`raybc.demos.spec`).
DEMOS_ALSO = (robosuite, robosuite_experts)


class AbsoluteEnv(RobosuiteEnv):
    """A `RobosuiteEnv` whose actions are poses. Arguments: see there; the controllers in `settings` may take either."""

    def __init__(
        self,
        env_name: str,
        obs_keys: Sequence[str],
        render: RenderOptions | None = None,
        robots: Sequence[str] = ("Panda",),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        settings = dict(settings or {})
        if settings.get("controller_configs") is None:
            with quiet():
                default = import_robosuite().load_composite_controller_config(robot=robots[0])
            settings["controller_configs"] = default
        settings["controller_configs"] = with_input_type(settings["controller_configs"], ABSOLUTE)
        super().__init__(env_name, obs_keys, render, robots, settings)
        low, high = self.action_space.low.copy(), self.action_space.high.copy()
        limit = np.array([*[REACH] * 3, *[np.pi] * 3], np.float32)
        for _, place in self._arms():
            low[place], high[place] = -limit, limit
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def to_absolute(self, delta: np.ndarray) -> np.ndarray:
        """The action (A,) that does in the current state what `delta` does, an action of the same task with deltas."""
        from scipy.spatial.transform import Rotation  # 0.2 s, which listing the tasks should not cost

        action = np.array(delta, np.float64)
        for arm, place in self._arms():
            scaled = arm.scale_action(action[place])
            turned = Rotation.from_matrix(arm.compute_goal_ori(scaled[3:])).as_rotvec()
            action[place] = np.concatenate([arm.compute_goal_pos(scaled[:3], "achieved"), turned])
        return action

    def to_delta(self, action: np.ndarray) -> np.ndarray:
        """The delta (A,) that leads to the pose `action` from the current state, not clipped: beyond 1, a controller
        of deltas does not reach as far."""
        from scipy.spatial.transform import Rotation

        delta = np.array(action, np.float64)
        for arm, place in self._arms():
            still = np.zeros(3)
            arm.scale_action(np.zeros(POSE))  # computes the scale
            here, turn = arm.compute_goal_pos(still, "achieved"), Rotation.from_matrix(arm.compute_goal_ori(still))
            away = Rotation.from_rotvec(action[place][3:]) * turn.inv()
            moved = np.concatenate([action[place][:3] - here, away.as_rotvec()])
            delta[place] = (moved - arm.action_output_transform) / arm.action_scale + arm.action_input_transform
        return delta

    def _arms(self) -> Iterator[tuple[Any, slice]]:
        """The up-to-date controller of each arm, and the place of its pose in an action. Raises `UserError` for other
        controllers than OSC_POSE."""
        first = 0
        for robot in self._sim.robots:
            whole = robot.composite_controller
            whole.update_state()
            end = first
            for name, part in whole.create_action_dict_from_action_vector(np.arange(robot.action_dim)).items():
                if name in whole.arms:
                    arm = whole.part_controllers[name]
                    if arm.name != OSC_POSE or len(part) != POSE:
                        raise UserError(
                            f"{self._env_name}: expected arms controlled by OSC_POSE with fixed impedance, for poses "
                            f"as actions, got {arm.name} with {len(part)} numbers"
                        )
                    arm.update(force=True)
                    yield arm, slice(first + int(part[0]), first + int(part[-1]) + 1)
                end += len(part)
            first = end


def absolute_version(env: SimEnv, where: str) -> AbsoluteEnv:
    """The same environment with poses as actions. Raises `UserError`, beginning with `where`, for other simulators."""
    if not isinstance(env, RobosuiteEnv):
        raise UserError(f"{where}: expected an environment of robosuite, whose actions can be converted, got another")
    args = env.env_args()
    kwargs = dict(args["env_kwargs"])
    return AbsoluteEnv(args["env_name"], tuple(env.observation_space), robots=kwargs.pop("robots"), settings=kwargs)


class AbsoluteExpert:
    """A scripted expert of the task with deltas, whose actions are converted."""

    def __init__(self, env: AbsoluteEnv, expert: Expert) -> None:
        self._env, self._expert = env, expert

    def act(self, obs: Obs) -> np.ndarray:
        """The next action, float32 (A,); to be called once a step."""
        return self._env.to_absolute(self._expert.act(obs)).astype(np.float32)


def _expert(
    make: Callable[[SimEnv, np.random.Generator, float], Expert], env: SimEnv, rng: np.random.Generator, noise: float
) -> AbsoluteExpert:
    assert isinstance(env, AbsoluteEnv)
    return AbsoluteExpert(env, make(env, rng, noise))


def _task(task: Task) -> Task:
    """`task`, one of `raybc.envs.robosuite`, with poses as actions."""
    make = task.make
    assert isinstance(make, functools.partial)
    expert = task.make_expert
    return dataclasses.replace(
        task,
        name=f"{task.name}_abs",
        make=functools.partial(AbsoluteEnv, *make.args, **make.keywords),
        make_expert=None if expert is None else functools.partial(_expert, expert),
    )


LIFT_ABS = _task(robosuite.LIFT)
CAN_ABS = _task(robosuite.CAN)
SQUARE_ABS = _task(robosuite.SQUARE)
TRANSPORT_ABS = _task(robosuite.TRANSPORT)
TOOL_HANG_ABS = _task(robosuite.TOOL_HANG)
