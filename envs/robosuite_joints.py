"""robosuite's tasks with joint deltas as actions: 7 joints and the gripper, the control of many real arms.

An action is [joint deltas (7), gripper (1)] in [-1, 1]; 1 is 0.2 rad to where the joints are, and opens or closes the
gripper as everywhere (-1, 1). The controller is robosuite's JOINT_POSITION with OSC_POSE's stiffness (kp 150): with its
default (kp 50, 0.05 rad) an arm needs three times as long.

The scripted experts are those of `raybc.envs.robosuite`. What they do with the hand becomes joint deltas by damped
least squares, dq = J' (J J' + c)^-1 dx (Nakamura and Hanafusa 1986). What is left of the joints' freedom keeps
them near their first posture (Liegeois 1977).

Everything else is as in `raybc.envs.robosuite`. To add a task: a line at the foot of this file and one in
`raybc.registry.TASKS`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from raybc.envs import robosuite, robosuite_experts
from raybc.envs.base import Expert, Obs, SimEnv, Task
from raybc.envs.robosuite import RobosuiteEnv
from raybc.envs.robosuite_experts import ArmExpert

#: Radians of one action unit.
SCALE = 0.2
#: c above, which bounds deltas near singular postures.
DAMPING = 1e-4
#: Share of the way to the first posture that a step goes.
POSTURE = 0.2
#: Other modules whose code decides demonstrations of the tasks here (`raybc.demos.spec`).
DEMOS_ALSO = (robosuite, robosuite_experts)
_ARM = {
    "type": "JOINT_POSITION", "input_max": 1, "input_min": -1, "output_max": SCALE, "output_min": -SCALE, "kp": 150,
    "damping_ratio": 1, "impedance_mode": "fixed", "kp_limits": [0, 300], "damping_ratio_limits": [0, 10],
    "qpos_limits": None, "interpolation": None, "ramp_ratio": 0.2, "input_type": "delta", "gripper": {"type": "GRIP"},
}  # fmt: skip
SETTINGS: dict[str, Any] = {"controller_configs": {"type": "BASIC", "body_parts": {"right": _ARM}}}


class JointExpert:
    """A scripted expert of the task with deltas of the hand, whose actions are converted."""

    def __init__(self, env: RobosuiteEnv, expert: Expert) -> None:
        self._env, self._expert = env, expert
        self._posture: np.ndarray | None = None

    def act(self, obs: Obs) -> np.ndarray:
        """The next action, float32 (8,); to be called once a step."""
        action = self._expert.act(obs).astype(np.float64)
        joints = self._deltas(action[:6])
        return np.append(np.clip(joints / SCALE, -1, 1), action[6]).astype(np.float32)

    def _deltas(self, action: np.ndarray) -> np.ndarray:
        """Joint deltas (7,) in radians that move the hand as the action (6,) of OSC_POSE says."""
        import mujoco

        sim, robot = self._env.simulation, self._env.simulation.robots[0]
        model, data = sim.sim.model._model, sim.sim.data._data
        arm = robot.composite_controller.part_controllers["right"]
        position, turn = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, position, turn, robot.eef_site_id["right"])
        jacobian = np.vstack([position, turn])[:, arm.qvel_index]
        base = data.xmat[model.body(robot.robot_model.root_body).id].reshape(3, 3)
        scaled = np.array(action) * ([ArmExpert.POSITION_SCALE] * 3 + [ArmExpert.ROTATION_SCALE] * 3)
        wanted = np.concatenate([base @ scaled[:3], base @ scaled[3:]])
        here = data.qpos[arm.qpos_index]
        if self._posture is None:
            self._posture = here.copy()
        pull = POSTURE * (self._posture - here)
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + DAMPING * np.eye(6))
        moved: np.ndarray = inverse @ wanted + pull - inverse @ (jacobian @ pull)
        return moved


def _expert(
    make: Callable[[SimEnv, np.random.Generator, float], Expert], env: SimEnv, rng: np.random.Generator, noise: float
) -> JointExpert:
    assert isinstance(env, RobosuiteEnv)
    return JointExpert(env, make(env, rng, noise))


def _task(task: Task) -> Task:
    """`task`, one of `raybc.envs.robosuite` with one Panda, with joint deltas as actions."""
    make, expert = task.make, task.make_expert
    assert isinstance(make, functools.partial)
    assert expert is not None
    return dataclasses.replace(
        task,
        name=f"{task.name}_joints",
        make=functools.partial(make.func, *make.args, **make.keywords, settings=SETTINGS),
        make_expert=functools.partial(_expert, expert),
    )


LIFT_JOINTS = _task(robosuite.LIFT)
CAN_JOINTS = _task(robosuite.CAN)
SQUARE_JOINTS = _task(robosuite.SQUARE)
