"""robosuite's tasks with joint deltas: what an action means, the experts' conversion, names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from raybc.config import DemosConfig
from raybc.data.control import refuse_other_control
from raybc.demos.spec import DemosSpec
from raybc.envs.robosuite import RobosuiteEnv
from raybc.envs.robosuite_joints import LIFT_JOINTS, SCALE, JointExpert
from raybc.registry import get_task, parse_env_name
from raybc.types import UserError
from tests.helpers import tiny_store


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteEnv]:
    made = LIFT_JOINTS.make(None)
    assert isinstance(made, RobosuiteEnv)
    yield made
    made.close()


def joints(env: RobosuiteEnv) -> np.ndarray:
    arm = env.simulation.robots[0].composite_controller.part_controllers["right"]
    return np.array(env.simulation.sim.data.qpos[arm.qpos_index])


def test_names() -> None:
    assert parse_env_name("lift-scripted-low_dim_joints").task == "lift_joints"
    assert parse_env_name("can-scripted-image_joints@64x64").task == "can_joints_pixels@64x64"
    assert get_task("square@image").name == "square_pixels"
    assert get_task("lift_joints@image").name == "lift_joints_pixels"
    assert get_task("lift_joints_pixels").obs_keys == get_task("lift_pixels").obs_keys


def test_an_action_moves_its_joint(env: RobosuiteEnv) -> None:
    assert env.action_space.shape == (8,)
    for joint in range(7):
        env.reset(seed=joint)
        before = joints(env)
        for _ in range(6):
            env.step(np.eye(8, dtype=np.float32)[joint] * 0.25)
        moved = joints(env) - before
        # The goal is 0.05 rad ahead of where the joint is; a critically damped joint lags behind it.
        assert 0.03 < moved[joint] < 6 * 0.25 * SCALE
        assert np.abs(np.delete(moved, joint)).max() < 0.25 * moved[joint]
    assert "kp=150" in env.identity()["controller"]


def test_the_converted_action_moves_the_hand_as_the_expert_wants(env: RobosuiteEnv) -> None:
    """The joint deltas of a motion of the hand move the hand by it, by forward kinematics."""

    class Fixed:
        def __init__(self, action: np.ndarray) -> None:
            self.action = action

        def act(self, obs: object) -> np.ndarray:
            return self.action

    import mujoco

    sim, rng = env.simulation, np.random.default_rng(0)
    model, data = sim.sim.model._model, sim.sim.data._data
    robot = sim.robots[0]
    site, arm = robot.eef_site_id["right"], robot.composite_controller.part_controllers["right"]
    for _ in range(10):
        obs, _ = env.reset(seed=int(rng.integers(100)))
        action = np.append(rng.uniform(-0.02, 0.02, 6), 1.0).astype(np.float32)
        deltas = JointExpert(env, Fixed(action)).act(obs)
        assert deltas[7] == 1.0
        base = data.xmat[model.body(robot.robot_model.root_body).id].reshape(3, 3)
        before = np.array(data.site_xpos[site])
        data.qpos[arm.qpos_index] += SCALE * deltas[:7]
        mujoco.mj_kinematics(model, data)
        moved = base.T @ (np.array(data.site_xpos[site]) - before)
        assert np.abs(moved - 0.05 * action[:3]).max() < 1e-4  # metres; the motion is 1 mm long


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_expert_solves_lift(env: RobosuiteEnv, seed: int) -> None:
    obs, _ = env.reset(seed=seed)
    assert LIFT_JOINTS.make_expert is not None
    expert = LIFT_JOINTS.make_expert(env, np.random.default_rng([seed, 2]), 1.0)
    for _ in range(LIFT_JOINTS.max_steps):
        action = expert.act(obs)
        assert env.action_space.contains(action)
        obs, _, _, _, info = env.step(action)
        if info["success"]:
            return
    pytest.fail("not solved")


def test_data_of_the_hand_are_refused(env: RobosuiteEnv) -> None:
    hands = get_task("lift").make(None)
    store = tiny_store((5, 5), env_args=hands.env_args())
    hands.close()
    with pytest.raises(UserError, match=r"expected delta actions of JOINT_POSITION .* got delta actions of OSC_POSE"):
        refuse_other_control(store, env.env_args(), "lift_joints")
    assert DemosSpec("lift", DemosConfig()).key() != DemosSpec("lift_joints", DemosConfig()).key()
