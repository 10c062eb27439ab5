"""Episodes recorded in real simulators, written as D4RL, OGBench and Minari publish them, and played again.

Where states are kept in float64, everything is the same bit for bit: MuJoCo is deterministic, and `restore` sets what
decides an episode. In float32, as D4RL keeps them, contacts make differences grow, and single steps are compared.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from raybc import cli
from raybc.data import formats, replay_findings
from raybc.data.__main__ import main
from raybc.data.replay import Replay, replay, task_of_data
from raybc.data.scan import Source, source_of
from raybc.envs.base import Judge, Task
from raybc.registry import get_task
from raybc.types import UserError
from tests.recordings import Played, as_store, at_random, by_expert, played, write_d4rl, write_ogbench

pytest.importorskip("mujoco")
pytestmark = pytest.mark.filterwarnings("ignore:.*is set to None")  # Minari's, of authors and the like
#: D4RL's names of what a reset of Adroit draws, and how many numbers each has.
ADROIT = {
    "pen": {"desired_orien": 4},
    "door": {"door_body_pos": 3},
    "hammer": {"board_pos": 3},
    "relocate": {"obj_pos": 3, "target_pos": 3},
}


def replayed(path: Path, task: Task, episodes: int) -> Replay:
    source = Source(path, formats.detect(path), task.name)
    env = task.make(None)
    try:
        return replay(source, task, env, np.arange(episodes), formats.read(path).success_E)
    finally:
        env.close()


def mujoco_infos(episodes: Sequence[Played], nq: int, nv: int) -> dict[str, np.ndarray]:
    states = np.concatenate([e.states[:-1] for e in episodes])
    return {"qpos": states[:, 1 : 1 + nq], "qvel": states[:, 1 + nq : 1 + nq + nv]}


@pytest.mark.parametrize(("name", "nq", "nv"), [("halfcheetah", 9, 9), ("hopper", 6, 6), ("ant", 15, 14)])
def test_d4rl_locomotion(name: str, nq: int, nv: int, tmp_path: Path) -> None:
    """Returns are the measure; hopper falls, which ends its episodes."""
    task, path = get_task(name), tmp_path / "a.hdf5"
    episodes = at_random(task, (0, 1, 2), 60)
    write_d4rl(path, episodes, mujoco_infos(episodes, nq, nv))
    found = replayed(path, task, 3)
    assert (found.start, found.successes, found.drifts) == ("the recorded state", None, (0, 0))
    for one, episode in zip(found.episodes, episodes, strict=True):
        assert one.replayed_return == sum(episode.rewards.tolist())
        assert one.recorded_return == pytest.approx(one.replayed_return, rel=1e-5), "recorded as float32"
        assert one.steps == len(episode.actions)
    assert replay_findings.findings(path, found) == []
    assert found.return_difference == pytest.approx(0, abs=1e-5)

    write_d4rl(path, episodes, {k: v.astype(np.float32) for k, v in mujoco_infos(episodes, nq, nv).items()})
    found = replayed(path, task, 3)
    assert found.step_drifts is not None
    assert found.step_drifts[1] < 1e-5, "of float32 single steps are the same, though returns need not be"
    assert replay_findings.findings(path, found) == []

    turned = [dataclasses.replace(e, actions=-e.actions) if i == 1 else e for i, e in enumerate(episodes)]
    write_d4rl(path, turned, mujoco_infos(episodes, nq, nv))
    found = replayed(path, task, 3)
    [finding] = replay_findings.findings(path, found)
    assert (finding.kind, finding.severity, finding.episodes) == ("replay", "warning", (1,))
    assert "single steps of" in finding.expected


def test_d4rl_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, path = get_task("halfcheetah"), tmp_path / "a.hdf5"
    episodes = at_random(task, (0, 1, 2), 30)
    write_d4rl(path, episodes, mujoco_infos(episodes, 9, 9))

    def verify(*flags: str) -> int:
        words = ["verify", str(path), "--env_name=halfcheetah-medium-v2", "--replay=2", *flags]
        return cli.run_main(lambda: main(words))

    assert verify() == 0
    text = capsys.readouterr().out
    assert "2 episodes played in halfcheetah, begun from the recorded state; success is not known there" in text
    assert "when recorded" in text.split("returns: mean")[1]
    assert "observations: at most 0 standard deviations" in text
    assert verify("--json") == 0
    found = json.loads(capsys.readouterr().out)["replay"]
    assert [e["episode"] for e in found["episodes"]] == [0, 2]
    assert found["returns"][0] == pytest.approx(found["returns"][1], rel=1e-5)

    write_d4rl(path, episodes, mujoco_infos(episodes, 9, 8))
    assert verify() == 2
    assert "episode 0: state of halfcheetah: expected 9 positions, 9 velocities, 18 values" in capsys.readouterr().err
    infos = mujoco_infos(episodes, 9, 9)
    infos["qvel"][3] = np.nan
    write_d4rl(path, episodes, infos)
    assert verify() == 2
    assert "--replay: episode 0: states: expected finite numbers, got nan or inf" in capsys.readouterr().err
    write_d4rl(path, episodes, {})
    assert verify() == 2
    assert "the data do not contain how an episode began" in capsys.readouterr().err


def test_d4rl_antmaze(tmp_path: Path) -> None:
    """The ant's recorder wrote infos after the step; there the observations are the states. They are float32."""
    pytest.importorskip("gymnasium_robotics")
    task, path, episodes, goals = get_task("antmaze-umaze"), tmp_path / "a.hdf5", [], []
    env = task.make(None)
    for seed, apart in ((0, 0.4), (1, 5.0)):
        _, state = env.reset(seed=seed), env.sim_state()
        state[-2:] = env.reset(seed=seed)[0]["state"][:2] + apart  # a goal that is near is reached
        obs = env.start_at(state)
        actions = np.random.default_rng(seed).uniform(-1, 1, (40, 8)).astype(np.float32)
        episodes.append(played(env, obs, lambda step, _, a=actions: a[step], 40))
        goals.append(state[-2:])
    env.close()
    assert [e.success for e in episodes] == [True, False]
    after = np.concatenate([e.obs["state"][1:] for e in episodes])
    goal = np.concatenate([np.tile(g, (len(e.actions), 1)) for g, e in zip(goals, episodes, strict=True)])
    write_d4rl(path, episodes, {"qpos": after[:, :15], "qvel": after[:, 15:], "goal": goal})
    found = replayed(path, task, 2)
    assert [(e.recorded, e.success, e.steps) for e in found.episodes] == [
        (True, True, len(episodes[0].actions)),
        (False, False, 40),
    ]
    assert found.drifts is not None
    assert found.drifts[1] < 1e-4
    assert found.lost() == ()
    write_d4rl(path, episodes, {"qpos": after[:, :15], "qvel": after[:, 15:], "goal": goal + 3})
    assert replayed(path, task, 2).lost() == (0,)


@pytest.mark.parametrize("name", ADROIT)
def test_d4rl_adroit(name: str, tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    task, path = get_task(name), tmp_path / "a.hdf5"
    episodes, own = at_random(task, (0, 1), 40), ADROIT[name]
    n = (episodes[0].states.shape[1] - 1 - sum(own.values())) // 2
    infos, first = mujoco_infos(episodes, n, n), 1 + 2 * n
    for key, size in own.items():
        infos[key] = np.concatenate([e.states[:-1, first : first + size] for e in episodes])
        first += size
    if name == "hammer":
        infos["target_pos"] = infos["board_pos"] + 1  # follows from the board; not looked at
    write_d4rl(path, episodes, infos)
    found = replayed(path, task, 2)
    assert found.drifts == (0, 0)
    for one, episode in zip(found.episodes, episodes, strict=True):
        assert one.replayed_return == pytest.approx(sum(episode.rewards.tolist()), rel=1e-12), "sums of distances"
        assert (one.success, one.recorded) == (episode.success, None)
    write_d4rl(path, episodes, mujoco_infos(episodes, n, n))
    with pytest.raises(UserError, match=r"values of the task .* or one that lacks a part"):
        replayed(path, task, 2)


def test_d4rl_kitchen_begins_as_observed(tmp_path: Path) -> None:
    """D4RL publishes no states of it, and its observations have noise: what is done again is similar."""
    pytest.importorskip("gymnasium_robotics")
    task, path = get_task("kitchen"), tmp_path / "a.hdf5"
    episodes = at_random(task, (0,), 40)
    write_d4rl(path, episodes, {})
    found = replayed(path, task, 1)
    assert found.start == "the first observation, at rest"
    assert found.drifts is not None
    assert found.drifts[0] < 1.2, "of noise alone"
    write_d4rl(path, [dataclasses.replace(episodes[0], actions=-episodes[0].actions)], {})
    turned = replayed(path, task, 1).drifts
    assert turned is not None
    assert turned[0] > 1.4


def test_what_we_write_as_d4rl(tmp_path: Path) -> None:
    """Our own states are whole: with the time, and in MuJoCo's frame."""
    pytest.importorskip("gymnasium_robotics")
    for name in ("antmaze-umaze", "pen"):
        task, path = get_task(name), tmp_path / f"{name}.hdf5"
        episodes = at_random(task, (3, 4), 30)
        formats.get("d4rl").write_store(path, as_store(episodes, path))
        found = replayed(path, task, 2)
        assert (found.start, found.drifts) == ("the recorded state", (0, 0))


@pytest.mark.parametrize(
    ("name", "nq", "nv"), [("cube-single-singletask-task1-v0", 21, 20), ("puzzle-3x3-singletask-task1-v0", 23, 23)]
)
def test_ogbench_singletask(name: str, nq: int, nv: int, tmp_path: Path) -> None:
    """The data mark no success: OGBench's relabelling says what was recorded."""
    pytest.importorskip("ogbench")
    task, path = get_task(name), tmp_path / "a.npz"
    episodes = [*by_expert(task, (0,)), *at_random(task, (1,), 30)]
    assert [e.success for e in episodes] == [True, False]
    write_ogbench(path, episodes, nq, nv)
    found = replayed(path, task, 2)
    assert (found.start, found.returns, found.drifts) == ("the recorded state", None, (0, 0))
    assert [(e.recorded, e.success, e.steps) for e in found.episodes] == [
        (True, True, len(episodes[0].actions)),
        (False, False, 30),
    ]
    assert replay_findings.findings(path, found) == []

    turned = dataclasses.replace(episodes[0], actions=-episodes[0].actions)
    write_ogbench(path, [turned, episodes[1]], nq, nv)
    [finding] = replay_findings.findings(path, replayed(path, task, 2))
    assert (finding.episodes, finding.found) == ((0,), "no success")
    turned = dataclasses.replace(episodes[1], actions=-episodes[1].actions)
    write_ogbench(path, [episodes[0], turned], nq, nv)
    [finding] = replay_findings.findings(path, replayed(path, task, 2))
    assert (finding.episodes, "standard deviations away" in finding.found) == ((1,), True), "a failure that is another"
    with np.load(path) as whole:
        np.savez(path, **{k: v for k, v in whole.items() if k != "qvel"})
    with pytest.raises(UserError, match=r"episode 0: state of .* positions"):
        replayed(path, task, 2)


def test_ogbench_without_a_goal(tmp_path: Path) -> None:
    """Data of the goal-conditioned environments name none, so only observations can be compared."""
    pytest.importorskip("ogbench")
    task, path = get_task("antmaze-medium-v0"), tmp_path / "a.npz"
    episodes = at_random(task, (0, 1), 40)
    write_ogbench(path, episodes, 15, 14)
    found = replayed(path, task, 2)
    assert (found.successes, found.returns, found.drifts) == (None, None, (0, 0))
    write_ogbench(path, [episodes[0], dataclasses.replace(episodes[1], actions=-episodes[1].actions)], 15, 14)
    [finding] = replay_findings.findings(path, replayed(path, task, 2))
    assert (finding.episodes, "standard deviations away" in finding.found) == ((1,), True)
    env = task.make(None)
    assert isinstance(env, Judge)
    assert env.solved_in(episodes[0].states) is None
    env.close()


# Minari


def minari_set(folder: Path, env: gymnasium.Env[Any, Any], episodes: Sequence[dict[str, Any]]) -> Path:
    """A data set as Minari's collector makes it. episodes: arguments of `EpisodeBuffer`."""
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setenv("MINARI_DATASETS_PATH", str(folder))
        buffers = [EpisodeBuffer(id=i, **e) for i, e in enumerate(episodes)]
        minari.create_dataset_from_buffers("raybc/test-v0", buffers, env=env)
    return folder / "raybc" / "test-v0"


def collected(
    env: gymnasium.Env[Any, Any], seed: int, options: dict[str, Any] | None, steps: int, infos: bool
) -> dict[str, Any]:
    """An episode of random actions as Minari's collector records it, with states of a maze where `infos`."""
    obs, info = env.reset(seed=seed, options=options)
    base: Any = env.unwrapped
    seen, told, actions, rewards = [obs], [], [], []

    def tell(success: bool) -> None:
        if infos:
            row = {"qpos": base.data.qpos, "qvel": base.data.qvel, "goal": base.goal, "success": success}
            told.append({k: np.array(v) for k, v in row.items()})

    tell(False)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        actions.append(rng.uniform(-1, 1, env.action_space.shape).astype(env.action_space.dtype))  # type: ignore[arg-type]
        obs, reward, terminated, _, info = env.step(actions[-1])
        seen.append(obs)
        rewards.append(float(reward))
        tell(bool(info.get("success", False)))
        if terminated:
            break
    ended = np.eye(len(actions), dtype=bool)[-1]
    stacked = {k: np.stack([o[k] for o in seen]) for k in obs} if isinstance(obs, dict) else np.stack(seen)
    return {
        "observations": stacked, "actions": np.stack(actions), "rewards": np.array(rewards), "seed": seed,
        "terminations": ended & terminated, "truncations": ended & (not terminated), "options": options,
        "infos": {k: np.stack([t[k] for t in told]) for k in told[0]} if infos else None,
    }  # fmt: skip


def replayed_as_named(path: Path, episodes: int) -> Replay:
    """In the environment that the data name."""
    source, data = source_of(str(path)), formats.read(path)
    task = task_of_data(source, data.env_args)
    env = task.make(None)
    try:
        return replay(source, task, env, np.arange(episodes), data.success_E)
    finally:
        env.close()


def test_minari_mazes_from_states(tmp_path: Path) -> None:
    """The environment with its arguments comes from the data; so do state and goal."""
    pytest.importorskip("gymnasium_robotics")
    maze = [[1, 1, 1, 1, 1], [1, "r", 0, "g", 1], [1, 1, 1, 1, 1]]
    env = gymnasium.make("PointMaze_UMaze-v3", maze_map=maze, continuing_task=False, max_episode_steps=10**6)
    episodes = [collected(env, seed, None, 30, infos=True) for seed in (0, 1)]
    path = minari_set(tmp_path, env, episodes)
    found = replayed_as_named(path, 2)
    assert (found.task, found.start, found.drifts) == ("gym:PointMaze_UMaze-v3", "the recorded state", (0, 0))
    assert [(e.recorded, e.success) for e in found.episodes] == [(False, False)] * 2
    assert found.returns == (0, 0) or found.returns is None


def test_minari_from_seeds(tmp_path: Path) -> None:
    env = gymnasium.make("HalfCheetah-v5")
    episodes = [collected(env, seed, None, 30, infos=False) for seed in (11, 12)]
    found = replayed_as_named(minari_set(tmp_path / "a", env, episodes), 2)
    assert (found.task, found.start, found.successes) == ("gym:HalfCheetah-v5", "the recorded seed", None)
    assert found.drifts is not None
    assert found.drifts[1] < 1e-6, "observations are read as float32, and so are they observed"
    for one, episode in zip(found.episodes, episodes, strict=True):
        assert one.replayed_return == pytest.approx(episode["rewards"].sum(), rel=1e-12)
    other = minari_set(tmp_path / "b", env, [episodes[0], episodes[1] | {"seed": 99}])
    with pytest.raises(UserError, match=r"episode 1: expected that a reset to the recorded seed leads to the recorded"):
        replayed_as_named(other, 2)
    unknown = minari_set(tmp_path / "c", env, [episodes[0] | {"seed": None}])
    with pytest.raises(UserError, match="the data do not contain how an episode began"):
        replayed_as_named(unknown, 1)


def test_minari_from_options(tmp_path: Path) -> None:
    """As Minari's Adroit: reset to a state that the options hold."""
    pytest.importorskip("gymnasium_robotics")
    env = gymnasium.make("AdroitHandPen-v1")
    env.reset(seed=5)
    state = env.unwrapped.get_env_state()  # type: ignore[attr-defined]
    episodes = [collected(env, 0, {"initial_state_dict": state}, 25, infos=False)]
    path = minari_set(tmp_path, env, episodes)
    found = replayed_as_named(path, 1)
    assert found.start == "the recorded reset"
    assert found.episodes[0].replayed_return == pytest.approx(episodes[0]["rewards"].sum(), rel=1e-12)
    assert found.drifts is not None
    assert found.drifts[0] < 1e-6


def test_what_we_write_as_minari(tmp_path: Path) -> None:
    pytest.importorskip("minari")
    task, path = get_task("walker2d"), tmp_path / "a"
    episodes = at_random(task, (0, 1), 30)
    formats.get("minari").write_store(path, as_store(episodes, path))
    found = replayed(path, task, 2)
    assert (found.start, found.drifts) == ("the recorded state", (0, 0))
    assert found.return_difference == pytest.approx(0, abs=1e-6)


def test_data_do_not_say_what_is_imported(tmp_path: Path) -> None:
    source = Source(tmp_path, "minari")
    for name in ("os:system", "no_such_package/Env-v0", "module:Env-v0"):
        with pytest.raises(UserError, match="the data name no known environment"):
            task_of_data(source, {"env_name": name, "env_kwargs": {}})
    assert task_of_data(source, {"env_name": "hopper", "type": 2}) is get_task("hopper")
