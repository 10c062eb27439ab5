"""Absolute actions of robosuite: what deltas do, absolute poses do, to rounding."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from raybc.cli import run_main
from raybc.data import formats
from raybc.data.__main__ import main
from raybc.data.control import converted
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import robomimic
from raybc.envs.pointmass import POINTMASS
from raybc.envs.robosuite import LIFT, RobosuiteEnv
from raybc.envs.robosuite_absolute import CAN_ABS, LIFT_ABS, SQUARE_ABS, TRANSPORT_ABS, AbsoluteEnv, absolute_version
from raybc.envs.robosuite_datasets import task as task_of_dataset
from raybc.testing.envs import check_task
from raybc.types import UserError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("robosuite") is None, reason="robosuite is missing: pip install 'raybc[robosuite]'"
)


@pytest.fixture(scope="module")
def recorded() -> EpisodeStore:
    """Two demonstrations of Lift's expert, with states."""
    env = LIFT.make(None)
    assert LIFT.make_expert is not None
    obs: dict[str, list[np.ndarray]] = {key: [] for key in LIFT.obs_keys}
    actions, states, ends = [], [], []
    for seed in (0, 1):
        seen, info = env.reset(seed=seed)
        expert = LIFT.make_expert(env, np.random.default_rng(seed), 1.0)
        while not info["success"]:
            for key, values in obs.items():
                values.append(seen[key])
            states.append(env.sim_state())
            actions.append(expert.act(seen))
            seen, _, _, _, info = env.step(actions[-1])
        ends.append(len(actions))
    rewards = np.zeros(len(actions), np.float32)
    rewards[np.array(ends) - 1] = 1
    env_args = env.env_args()
    env.close()
    return EpisodeStore(
        obs={key: np.stack(values) for key, values in obs.items()}, actions_NA=np.stack(actions), rewards_N=rewards,
        episode_ends=np.array(ends), states_NS=np.stack(states), env_args=env_args, source=Path("lift.hdf5"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def absolute(recorded: EpisodeStore) -> EpisodeStore:
    found, note = converted(recorded, LIFT, "absolute")
    assert note == ""
    return found


@pytest.fixture(scope="module")
def env() -> Iterator[AbsoluteEnv]:
    env = LIFT_ABS.make(None)
    assert isinstance(env, AbsoluteEnv)
    yield env
    env.close()


def replayed(env: RobosuiteEnv, store: EpisodeStore, episode: int) -> tuple[np.ndarray, bool]:
    """States before each action, float64 (T, S), when the actions are replayed from the first; and the success."""
    rows = slice(store.episode_starts[episode], store.episode_ends[episode])
    assert store.states_NS is not None
    env.start_at(store.states_NS[rows][0])
    states, success = [], False
    for action in store.actions_NA[rows]:
        states.append(env.sim_state())
        *_, info = env.step(action)
        success = success or info["success"]
    return np.stack(states), success


def test_poses_are_where_the_controller_moves_to(
    recorded: EpisodeStore, absolute: EpisodeStore, env: AbsoluteEnv
) -> None:
    """Against the formula: the hand's position plus the delta, in the frame of the base (of a Panda at a table). The
    recorded observation is that of a physics step before, so the hand is observed in the recorded states."""
    base = np.array([-0.56, 0, 0.912])
    assert recorded.states_NS is not None
    hand = np.stack([env.observe_at(state)[0]["robot0_eef_pos"] for state in recorded.states_NS]) - base
    deltas = recorded.actions_NA.astype(np.float64)
    np.testing.assert_allclose(absolute.actions_NA[:, :3], hand + 0.05 * deltas[:, :3], atol=1e-6)
    np.testing.assert_array_equal(absolute.actions_NA[:, 6], recorded.actions_NA[:, 6])
    angles = np.linalg.norm(absolute.actions_NA[:, 3:6], axis=1)
    assert ((angles > 2.5) & (angles <= np.pi + 1e-6)).all(), "the gripper points down: a turn of about pi"


def test_a_turn_is_added_to_the_hands_rotation(env: AbsoluteEnv) -> None:
    env.reset(seed=0)
    still, turned = np.zeros(7), np.array([0, 0, 0, 0, 0, 1.0, -1])
    a, b = (Rotation.from_rotvec(env.to_absolute(action)[3:6]) for action in (still, turned))
    np.testing.assert_allclose((b * a.inv()).as_rotvec(), [0, 0, 0.5], atol=1e-9)
    np.testing.assert_allclose(env.to_absolute(still)[:3], env.to_absolute(turned)[:3])


def test_replayed_poses_are_the_recorded_episode(
    recorded: EpisodeStore, absolute: EpisodeStore, env: AbsoluteEnv
) -> None:
    for episode in range(2):
        rows = slice(recorded.episode_starts[episode], recorded.episode_ends[episode])
        states, success = replayed(env, absolute, episode)
        assert success
        assert recorded.states_NS is not None
        np.testing.assert_allclose(states[:, 1:17], recorded.states_NS[rows, 1:17], atol=1e-5)  # joints, fingers, cube


def test_deltas_come_back(recorded: EpisodeStore, absolute: EpisodeStore) -> None:
    again, note = converted(absolute, LIFT_ABS, "delta")
    assert note == ""
    np.testing.assert_allclose(again.actions_NA, recorded.actions_NA, atol=2e-5)
    assert again.env_args["env_kwargs"]["controller_configs"] == recorded.env_args["env_kwargs"]["controller_configs"]


def test_far_poses_are_clipped_and_counted(absolute: EpisodeStore) -> None:
    actions = absolute.actions_NA.copy()
    far = len(actions) // 4
    actions[:far, 0] += 0.2
    store = EpisodeStore(
        absolute.obs, actions, absolute.rewards_N, absolute.episode_ends, states_NS=absolute.states_NS,
        env_args=absolute.env_args,
    )  # fmt: skip
    found, note = converted(store, LIFT_ABS, "delta")
    np.testing.assert_array_equal(found.actions_NA[:far, 0], 1)
    assert note.startswith(f"{far / len(actions):.2%} of the steps lead farther than a delta can")


@pytest.mark.slow
def test_the_commands(recorded: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Convert, verify with a replay, and the environment of the file."""
    source, out = tmp_path / "lift.hdf5", tmp_path / "lift_abs.hdf5"
    robomimic.write_store(source, recorded)
    flags = ["--actions", "absolute", "--format", "robomimic", "--out", str(out)]
    assert run_main(lambda: main(["convert", str(source), *flags])) == 0
    assert formats.read(out).obs.keys() == recorded.obs.keys()
    task = task_of_dataset(f"dataset:{out}")
    assert task is not None
    env = task.make(None)
    assert isinstance(env, AbsoluteEnv), "its actions are not clipped to those of deltas"
    assert 'input_type="absolute"' in env.identity()["controller"]
    env.close()
    capsys.readouterr()
    assert run_main(lambda: main(["verify", str(out), "--replay", "2"])) == 0
    assert "replay: 2 of 2 episodes succeed" in capsys.readouterr().out
    assert run_main(lambda: main(["verify", str(out), "--env_name", "lift"])) == 1
    assert "control" in capsys.readouterr().out
    again = ["--actions", "absolute", "--out", str(tmp_path / "again")]
    assert run_main(lambda: main(["convert", str(out), *again])) == 2
    assert "expected delta actions, and these are absolute already" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_other_simulators_are_refused(recorded: EpisodeStore) -> None:
    with pytest.raises(UserError, match=r"^lift\.hdf5: --actions absolute: expected an environment of robosuite"):
        converted(recorded, POINTMASS, "absolute")


def test_conformance() -> None:
    check_task(LIFT_ABS)


@pytest.mark.slow
@pytest.mark.parametrize("task", [CAN_ABS, SQUARE_ABS], ids=lambda task: task.name)
def test_conformance_of_the_others(task: object) -> None:
    check_task(task)  # type: ignore[arg-type]


def test_the_expert_solves_the_task(env: AbsoluteEnv) -> None:
    assert LIFT_ABS.make_expert is not None
    obs, info = env.reset(seed=3)
    expert = LIFT_ABS.make_expert(env, np.random.default_rng(3), 1.0)
    for _ in range(LIFT_ABS.max_steps):
        action = expert.act(obs)
        assert env.action_space.contains(action)
        obs, _, _, _, info = env.step(action)
        if info["success"]:
            break
    assert info["success"]


@pytest.mark.slow
def test_two_arms() -> None:
    env = TRANSPORT_ABS.make(None)
    assert isinstance(env, AbsoluteEnv)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(3):
        delta = rng.uniform(-1, 1, 14)
        action = env.to_absolute(delta)
        np.testing.assert_allclose(env.to_delta(action), delta, atol=1e-6)
        assert env.action_space.contains(action.astype(np.float32))
        env.step(action)
    env.close()


def test_other_controllers_are_refused() -> None:
    env = LIFT.make(None)
    assert isinstance(env, RobosuiteEnv)
    config = env.env_args()["env_kwargs"]["controller_configs"]
    env.close()
    config["body_parts"]["right"] |= {"type": "JOINT_POSITION", "input_type": "delta"}
    joints = RobosuiteEnv("Lift", LIFT.obs_keys, settings={"controller_configs": config})
    with pytest.raises(UserError, match=r"^Lift: expected arms controlled by OSC_POSE .*, got JOINT_POSITION"):
        absolute_version(joints, "x")
    joints.close()
