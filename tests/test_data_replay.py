"""Recorded actions played again: they succeed where they did, and do not where they cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from raybc.data import formats, replay_findings
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import robomimic
from raybc.data.replay import replay, task_of_data
from raybc.data.scan import Source, source_of
from raybc.envs.base import Restorable, SimEnv
from raybc.envs.pointmass import POINTMASS
from raybc.registry import get_task
from raybc.types import UserError

SOME = np.array([0, 7, 39])


def converted(path: Path, folder: Path, flip: int = -1) -> Source:
    """As a store, which keeps states and no seeds; with the actions of one episode turned round."""
    data = formats.read(path, states=True)
    actions = data.actions_NA.copy()
    if flip >= 0:
        actions[data.episode_starts[flip] : data.episode_ends[flip]] *= -1
    formats.get("store").write_store(folder / "a", dataclasses.replace(data, actions_NA=actions))
    return source_of(str(folder / "a"))


def test_demonstrations_succeed_again_from_seeds(pointmass_demos: Path) -> None:
    source, env = source_of(str(pointmass_demos)), POINTMASS.make(None)
    store = formats.read(pointmass_demos)
    told: list[tuple[int, int]] = []
    found = replay(source, POINTMASS, env, SOME, store.success_E, lambda *counts: told.append(counts))
    assert (found.task, found.start, found.successes, found.lost()) == ("pointmass", "the recorded seed", 3, ())
    assert [(e.episode, e.recorded, e.success, e.max_reward) for e in found.episodes] == [
        (i, True, True, 1) for i in SOME
    ]
    lengths = np.diff(store.episode_ends, prepend=0)
    assert [e.steps for e in found.episodes] == lengths[SOME].tolist()
    assert told == [(1, 1), (2, 2), (3, 3)]
    assert found.as_json()["successes"] == 3


def test_from_recorded_states(pointmass_demos: Path, tmp_path: Path) -> None:
    source, env = converted(pointmass_demos, tmp_path, flip=7), POINTMASS.make(None)
    found = replay(source, POINTMASS, env, SOME, np.ones(40, bool))
    assert (found.start, found.successes, found.lost()) == ("the recorded state", 2, (7,))
    assert found.mean_max_reward == pytest.approx(2 / 3)


def test_the_data_name_their_task(pointmass_demos: Path) -> None:
    source = source_of(str(pointmass_demos))
    assert task_of_data(source, {"env_name": "PointMass", "type": 3}) is POINTMASS
    assert task_of_data(dataclasses.replace(source, task="lift"), {"env_name": "PointMass"}) is get_task("lift")
    for args in ({}, {"env_name": "Tiny"}):
        with pytest.raises(UserError, match=r"--replay: the data name no known environment .* with --env_name"):
            task_of_data(source, args)


def test_some_idle_steps_are_part_of_a_motion(tmp_path: Path) -> None:
    """A point mass has momentum: it coasts while nothing is commanded. At rest a pause changes nothing."""
    env, push, wait = POINTMASS.make(None), [[1, 0], [0.9, 0]] * 5, [[0, 0]]
    assert isinstance(env, Restorable)
    obs, states, actions, ends = [], [], [], []
    for way in ([*wait * 5, *push, *push], [*push, *wait * 20], [*push, *push]):  # rests first; coasts; never idle
        seen, success = env.start_at(np.array([-0.5, 0.6, 0, 0, 0.3, 0.6])), False
        for action in np.array(way, np.float32):
            if not success:
                obs.append(seen)
                states.append(env.sim_state())
                actions.append(action)
                seen, _, _, _, info = env.step(action)
                success = info["success"]
        assert success
        ends.append(len(actions))
    recorded = EpisodeStore(
        {key: np.stack([o[key] for o in obs]) for key in obs[0]}, np.stack(actions), np.zeros(len(obs), np.float32),
        np.array(ends), states_NS=np.stack(states),
    )  # fmt: skip
    formats.get("store").write_store(tmp_path / "a", recorded)
    found = replay(source_of(str(tmp_path / "a")), POINTMASS, env, np.arange(3), np.ones(3, bool))
    assert [e.success for e in found.episodes] == [True] * 3
    assert [e.success_without_idle for e in found.episodes] == [True, False, None]
    [finding] = replay_findings.findings(tmp_path, found)
    assert (finding.severity, finding.kind, finding.episodes) == ("warning", "idle", (1,))
    assert "as in 1 of 2 episodes" in finding.expected
    assert "--drop_idle" in finding.advice


class Fixed(SimEnv):
    """Cannot begin in a recorded state."""

    action_space = POINTMASS.make(None).action_space


def test_what_cannot_be_replayed_is_said(pointmass_demos: Path, tmp_path: Path) -> None:
    source = converted(pointmass_demos, tmp_path)
    assert not issubclass(Fixed, Restorable)
    with pytest.raises(UserError, match=r"--replay: this adapter \(Fixed\) cannot start from a recorded state"):
        replay(source, POINTMASS, Fixed(), SOME, None)  # type: ignore[abstract]
    data = dataclasses.replace(formats.read(pointmass_demos), source=tmp_path)
    formats.get("episode_ends").write_store(tmp_path / "a.npz", data)
    with pytest.raises(UserError, match=r"a\.npz: --replay: the data do not contain how .* \(got goal, state\)"):
        replay(source_of(str(tmp_path / "a.npz")), POINTMASS, POINTMASS.make(None), SOME, None)
    cut = dataclasses.replace(data, actions_NA=data.actions_NA[:, :1])
    formats.get("store").write_store(tmp_path / "cut", cut)
    with pytest.raises(UserError, match=r"expected actions of pointmass, \(2,\), got \(1,\); name the task"):
        replay(source_of(str(tmp_path / "cut")), POINTMASS, POINTMASS.make(None), SOME, None)


def test_without_success_returns_are_compared(pointmass_demos: Path, tmp_path: Path) -> None:
    task, source = dataclasses.replace(POINTMASS, has_success=False), converted(pointmass_demos, tmp_path, flip=7)
    found = replay(source, task, task.make(None), SOME, np.ones(40, bool))
    assert (found.successes, found.lost()) == (None, ())
    assert found.returns == (1, pytest.approx(2 / 3))
    assert found.return_difference == pytest.approx(-1 / 3)
    assert found.elsewhere() == (7,), "with turned actions every single step leads elsewhere"
    [finding] = replay_findings.findings(source.path, found)
    assert "single steps" in finding.expected
    seeded = replay(source_of(str(pointmass_demos)), task, task.make(None), SOME, None)
    assert (seeded.step_drifts, seeded.other_returns(), seeded.drifts) == (None, (), (0, 0))
    worse = tuple(dataclasses.replace(e, replayed_return=0.9) for e in seeded.episodes)
    assert dataclasses.replace(seeded, episodes=worse).other_returns() == tuple(SOME)


def test_only_files_of_raybc_have_seeds(pointmass_demos: Path, tmp_path: Path) -> None:
    seeds = robomimic.recorded_seeds(pointmass_demos)
    assert seeds is not None
    assert len(set(seeds)) == 40
    robomimic.write_store(tmp_path / "a.hdf5", formats.read(pointmass_demos))
    assert robomimic.recorded_seeds(tmp_path / "a.hdf5") is None


def test_a_start_is_where_the_recording_was(pointmass_demos: Path) -> None:
    data, env = formats.read(pointmass_demos, states=True), POINTMASS.make(None)
    assert isinstance(env, Restorable)
    assert data.states_NS is not None
    obs = env.start_at(data.states_NS[5])
    np.testing.assert_array_equal(env.sim_state(), data.states_NS[5])
    for key in obs:
        np.testing.assert_array_equal(obs[key], data.obs[key][5])
    with pytest.raises(UserError, match="expected 6 values, got 5"):
        env.start_at(np.zeros(5))


def test_pusht_from_recorded_positions(human_pusht_npz: Path, tmp_path: Path) -> None:
    pytest.importorskip("gym_pusht")
    task = get_task("pusht")
    env = task.make(None)
    assert isinstance(env, Restorable)
    with pytest.raises(UserError, match="state of PushT: expected 5 or 10 values, got 7"):
        env.start_at(np.zeros(7))
    found = replay(source_of(str(human_pusht_npz), "pusht"), task, env, np.arange(5), None)
    assert found.start == "the recorded seed_state"
    assert all(e.recorded is None for e in found.episodes)
    assert found.mean_max_reward > 0.9, "the recorded demonstrations cover most of the goal"
    assert found.drifts is not None
    assert found.drifts[1] < 1e-5
    with np.load(human_pusht_npz) as data:
        arrays = dict(data)
    del arrays["seed_state"]
    np.savez(tmp_path / "a.npz", **arrays)
    found = replay(source_of(str(tmp_path / "a.npz"), "pusht"), task, env, np.arange(5), None)
    assert found.start == "the first observation, at rest"
    assert found.mean_max_reward > 0.9


def test_pusht_from_corners(tmp_path: Path) -> None:
    """As LeRobot's pusht_keypoints: agent_pos as `state`, the block's corners as `environment_state`."""
    pytest.importorskip("gym_pusht")
    task = get_task("pusht")
    env = task.make(None)
    actions = np.random.default_rng(0).uniform(100, 400, (2, 30, 2)).astype(np.float32)
    rows: dict[str, list[np.ndarray]] = {"state": [], "environment_state": []}
    for i, seed in enumerate((0, 2)):  # at 1 the agent begins within the block
        obs, _ = env.reset(seed=seed)
        for action in actions[i]:
            rows["state"].append(obs["agent_pos"])
            rows["environment_state"].append(obs["keypoints"])
            obs, *_ = env.step(action)
    arrays = {k: np.stack(v) for k, v in rows.items()}
    arrays |= {"action": actions.reshape(60, 2), "episode_ends": np.array([30, 60])}
    np.savez(tmp_path / "a.npz", **arrays)
    source = source_of(str(tmp_path / "a.npz"), "pusht")
    found = replay(source, task, env, np.arange(2), None)
    assert found.start == "the first observation, at rest"
    assert found.drifts is not None
    assert found.drifts[1] < 1e-3, "corners are float32: the pose is exact to 1e-5 px"
    arrays["environment_state"] = arrays["environment_state"].reshape(60, 8, 2)[:, ::-1].reshape(60, 16)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match="keypoints of PushT: expected the corners of its block in gym_pusht's order"):
        replay(source, task, env, np.arange(2), None)
    del arrays["environment_state"]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match="the data do not contain how an episode began"):
        replay(source, task, env, np.arange(2), None)


def test_pusht_begins_in_any_state() -> None:
    """A `sim_state`, in the midst of pushing, is taken as it is; gym_pusht itself would turn the block elsewhere."""
    pytest.importorskip("gym_pusht")
    env = get_task("pusht").make(None)
    assert isinstance(env, Restorable)
    obs, _ = env.reset(seed=1)
    for _ in range(12):
        obs, *_ = env.step(obs["block_pose"][:2])
    state = env.sim_state()
    again = env.start_at(state)
    np.testing.assert_array_equal(env.sim_state(), state)
    for key in obs:
        np.testing.assert_array_equal(again[key], obs[key])


@pytest.mark.slow
def test_human_lift_demonstrations_succeed_again(human_lift: Path) -> None:
    pytest.importorskip("robosuite")
    source = source_of(str(human_lift))
    task = task_of_data(source, formats.read(human_lift).env_args)
    assert task.suite == "robosuite"
    env = task.make(None)
    assert isinstance(env, Restorable)
    with pytest.raises(UserError, match="state of Lift: expected 32 values, got 3: another model"):
        env.start_at(np.zeros(3))
    found = replay(source, task, env, np.arange(8), formats.read(human_lift).success_E)
    assert found.successes == 7, (
        "of these recordings, made with older versions, one does not succeed in robosuite 1.5.2"
    )
    assert found.lost() == (7,)
    assert found.needing_pauses() == (5, 6), "made of single key presses"
    env.close()


def test_robosuite_begins_in_a_recorded_state() -> None:
    pytest.importorskip("robosuite")
    env = get_task("lift").make(None)
    assert isinstance(env, Restorable)
    obs, _ = env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 7))
    start = env.sim_state()
    first = [env.step(a)[0] for a in actions]
    env.reset(seed=4)
    again = env.start_at(start)
    for key in obs:
        np.testing.assert_allclose(again[key], obs[key], atol=1e-6)
    for action, before in zip(actions, first, strict=True):
        now = env.step(action)[0]
        for key in now:
            np.testing.assert_allclose(now[key], before[key], atol=1e-4)
    env.close()
