"""The environment that a robomimic dataset names: as recorded, converted from old forms, or refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from raybc.envs import robosuite_datasets
from raybc.envs.base import EnvName
from raybc.envs.robosuite import RobosuiteEnv
from raybc.testing.envs import check_task
from raybc.types import UserError

needs_robosuite = pytest.mark.skipif(
    importlib.util.find_spec("robosuite") is None, reason="robosuite is missing: pip install 'raybc[robosuite]'"
)
OLD_OSC = {
    **{"type": "OSC_POSE", "input_max": 1, "input_min": -1, "kp": 100, "damping": 1, "impedance_mode": "fixed"},
    **{"output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5], "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5]},
    **{"kp_limits": [0, 300], "damping_limits": [0, 10], "position_limits": None, "orientation_limits": None},
    **{"uncouple_pos_ori": True, "control_delta": False, "interpolation": None, "ramp_ratio": 0.2},
}
OLD_KWARGS = {
    **{"has_renderer": False, "has_offscreen_renderer": True, "ignore_done": True, "use_object_obs": True},
    **{"use_camera_obs": True, "camera_depths": False, "camera_heights": 84, "camera_widths": 84, "control_freq": 10},
    **{"camera_names": ["agentview"], "render_gpu_device_id": 0, "reward_shaping": False},
    **{"robots": ["Panda"], "controller_configs": OLD_OSC},
}


def dataset(path: Path, env_args: Any) -> str:
    """The name of a file with these `env_args` and nothing else."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if env_args is not None:
            data.attrs["env_args"] = env_args if isinstance(env_args, str) else json.dumps(env_args)
    return f"dataset:{path}"


def args(name: str = "Lift", version: str = "1.4.1", **kwargs: Any) -> dict[str, Any]:
    return {"env_name": name, "env_version": version, "type": 1, "env_kwargs": OLD_KWARGS | kwargs}


@needs_robosuite
def test_environment_of_a_dataset(human_lift: Path) -> None:
    name = f"dataset:{human_lift}"
    assert robosuite_datasets.parse(name) == EnvName(name, name)
    task = robosuite_datasets.task(name)
    assert task is not None
    assert (task.max_steps, task.fps) == (400, 20.0)
    env = task.make(None)
    assert isinstance(env, RobosuiteEnv)
    assert env.identity()["controller"] == "BASIC/OSC_POSE"
    with h5py.File(human_lift) as file:
        demo = file["data/demo_1"]
        obs, _ = env.reset(seed=0)
        assert {key: value.shape for key, value in obs.items()} == {
            key: demo[f"obs/{key}"].shape[1:] for key in task.obs_keys
        }
        actions, states, recorded = demo["actions"][()], demo["states"][()], demo["obs/robot0_eef_pos"][()]
    # The recorded actions move this robot as they moved the recorded one: same controller, scale and frame.
    env._sim.sim.set_state_from_flattened(states[0])
    env._sim.sim.forward()
    for step, action in enumerate(actions[:60]):
        obs, *_ = env.step(action)
        np.testing.assert_allclose(obs["robot0_eef_pos"], recorded[step + 1], atol=5e-3)
    env.close()


@needs_robosuite
def test_old_controllers_are_converted(tmp_path: Path) -> None:
    task = robosuite_datasets.task(dataset(tmp_path / "old.hdf5", args()))
    assert task is not None
    env = task.make(None)
    assert isinstance(env, RobosuiteEnv)
    assert env.metadata["render_fps"] == task.fps == 10
    controller = env.identity()["controller"]
    assert controller == 'BASIC/OSC_POSE(input_ref_frame="world",input_type="absolute",kp=100)@10Hz'
    obs, _ = env.reset(seed=0)
    goal = obs["robot0_eef_pos"] + [0.05, -0.03, 0.04]
    for _ in range(30):  # absolute actions are a pose of the hand: position, axis-angle
        obs, *_ = env.step(np.array([*goal, np.pi, 0.0, 0.0, -1.0]))
    np.testing.assert_allclose(obs["robot0_eef_pos"], goal, atol=0.01)
    assert json.loads(json.dumps(env.env_args())) == env.env_args()
    env.close()


@needs_robosuite
@pytest.mark.slow
def test_dataset_of_two_arms(tmp_path: Path) -> None:
    name = dataset(
        tmp_path / "two.hdf5",
        args("TwoArmTransport", robots=["Panda", "Panda"], env_configuration="single-arm-opposed", control_freq=20),
    )
    task = robosuite_datasets.task(name)
    assert task is not None
    assert (task.max_steps, len(task.obs_keys)) == (700, 7)
    check_task(task)


def test_datasets_that_name_no_environment_of_robosuite(tmp_path: Path) -> None:
    (tmp_path / "text.hdf5").write_text("no HDF5")
    for name, message in (
        (f"dataset:{tmp_path / 'absent.hdf5'}", "expected a robomimic HDF5 file, found none"),
        (f"dataset:{tmp_path / 'text.hdf5'}", "not readable as HDF5"),
        (dataset(tmp_path / "none.hdf5", None), "has no env_args"),
        (dataset(tmp_path / "json.hdf5", "{"), "not readable as JSON"),
        (dataset(tmp_path / "list.hdf5", []), "expected a mapping"),
        (dataset(tmp_path / "gym.hdf5", args() | {"type": 2}), "expected an environment of robosuite"),
        (dataset(tmp_path / "kwargs.hdf5", args() | {"env_kwargs": 1}), "expected env_name"),
        (dataset(tmp_path / "robots.hdf5", args(robots=[1])), "expected names of robots"),
        (dataset(tmp_path / "freq.hdf5", args(control_freq="fast")), "control_freq"),
    ):
        with pytest.raises(UserError, match=message):
            robosuite_datasets.task(name)
    assert robosuite_datasets.task("lift") is None
    assert robosuite_datasets.parse("lift-scripted-low_dim") is None


@needs_robosuite
def test_datasets_that_this_robosuite_cannot_build(tmp_path: Path) -> None:
    for number, (env_args, message) in enumerate(
        (
            (args("Kitchen"), "has no environment 'Kitchen'"),
            (args(robots=["Terminator"]), "has no robot 'Terminator'"),
            (args(controller_configs={"type": "TELEPATHY"}), "controller_configs: expected an arm's controller"),
            (args(controller_configs=[OLD_OSC, OLD_OSC]), "1 robots, but 2 controller_configs"),
            (args(colour="red"), r"cannot build its environment Lift \(recorded with 1.4.1\): .*colour"),
        )
    ):
        task = robosuite_datasets.task(dataset(tmp_path / f"{number}.hdf5", env_args))
        assert task is not None
        with pytest.raises(UserError, match=message):
            task.make(None)
