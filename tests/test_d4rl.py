"""D4RL's names, reference returns and environments, compared with the d4rl package's own files."""

from __future__ import annotations

import ast
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from raybc.envs import d4rl
from raybc.envs.gym import GymEnv

ORACLE = Path(sys.prefix) / "oracles" / "d4rl"
needs_oracle = pytest.mark.skipif(not ORACLE.exists(), reason="the d4rl package is missing: make oracles")


def make(name: str) -> GymEnv:
    env = d4rl.TASKS[name].make(None)
    assert isinstance(env, GymEnv)
    return env


def base(env: GymEnv) -> Any:
    return env._env.unwrapped


@pytest.fixture(scope="module")
def infos() -> ModuleType:
    """d4rl.infos; importing d4rl itself would need MuJoCo 2.1."""
    spec = importlib.util.spec_from_file_location("d4rl_infos", ORACLE / "infos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_oracle
def test_reference_returns_are_those_of_d4rl(infos: ModuleType) -> None:
    compared = 0
    for name, low in infos.REF_MIN_SCORE.items():
        ours = d4rl.reference(name)
        if ours is not None:
            assert ours == (low, infos.REF_MAX_SCORE[name]), name
            compared += 1
    assert compared > 100


@needs_oracle
def test_every_dataset_of_these_families_is_known(infos: ModuleType) -> None:
    families = ("halfcheetah", "hopper", "walker2d", "ant", "antmaze", "pen", "door", "hammer", "relocate", "kitchen")
    for name in infos.REF_MIN_SCORE:
        found = d4rl.parse(name)
        if name.split("-")[0] in families:
            assert found is not None, name
            assert found.task in d4rl.TASKS
            assert found.data.endswith(name[-2:])
        else:
            assert found is None, name


@pytest.mark.parametrize(
    ("name", "task", "data"),
    [
        ("halfcheetah-medium-expert-v2", "halfcheetah", "medium-expert-v2"),
        ("ant-random-v0", "ant", "random-v0"),
        ("antmaze-umaze-v2", "antmaze-umaze", "v2"),
        ("antmaze-umaze-diverse-v2", "antmaze-umaze", "diverse-v2"),
        ("antmaze-large-play-v0", "antmaze-large", "play-v0"),
        ("door-human-v1", "door", "human-v1"),
        ("kitchen-partial-v0", "kitchen", "partial-v0"),
        ("kitchen-mixed-v0", "kitchen-mixed", "mixed-v0"),
        ("hopper", "hopper", ""),
        ("kitchen-mixed", "kitchen-mixed", ""),
    ],
)
def test_names(name: str, task: str, data: str) -> None:
    found = d4rl.parse(name)
    assert found is not None
    assert (found.name, found.task, found.data) == (name, task, data)
    assert d4rl.reference(name) == d4rl.REFERENCE[task]
    assert set(d4rl.EXAMPLES) == set(d4rl.DATASETS)


@pytest.mark.parametrize(
    "name",
    [
        "antmaze-medium-navigate-v0",  # OGBench's
        "antmaze-large-stitch-v0",
        "antmaze-medium-v0",
        "antmaze-medium-v2",  # of medium there is play and diverse
        "halfcheetah-medium-v3",
        "halfcheetah-full-replay-v0",
        "door-human-longhorizon-v1",  # other step limits
        "kitchen-complete-v1",
        "maze2d-umaze-v1",
        "lift",
    ],
)
def test_names_of_others_are_left_alone(name: str) -> None:
    assert d4rl.parse(name) is None
    assert d4rl.reference(name) is None


def test_ant_observes_no_contact_forces() -> None:
    env = make("ant")
    env.reset(seed=0)
    for _ in range(20):
        obs, _, _, _, info = env.step(np.full(8, 0.5, np.float32))
    assert not obs["state"][27:].any()
    np.testing.assert_array_equal(obs["state"][:13], base(env).data.qpos[2:].astype(np.float32))
    assert info == {"success": False}


# AntMaze


@needs_oracle
def test_mazes_are_those_of_d4rl() -> None:
    tree = ast.parse((ORACLE / "locomotion" / "maze_env.py").read_text())
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    for ours, theirs in (("umaze", "U_MAZE_TEST"), ("medium", "BIG_MAZE_TEST"), ("large", "HARDEST_MAZE_TEST")):
        rows = eval(ast.unparse(assigned[theirs]), {"R": "r", "G": "g"})
        assert d4rl.MAZES[ours] == tuple("".join(map(str, row)) for row in rows)


@pytest.mark.parametrize("size", ["umaze", "medium", "large"])
def test_antmaze_has_the_coordinates_of_d4rl(size: str) -> None:
    """D4RL puts the block of row i and column j at (4 j, 4 i) from the start's cell."""
    env, maze = make(f"antmaze-{size}"), d4rl.MAZES[size]
    obs, _ = env.reset(seed=0)
    model = base(env).model
    start = next((i, row.index("r")) for i, row in enumerate(maze) if "r" in row)
    expected = {
        (4.0 * (j - start[1]), 4.0 * (i - start[0]))
        for i, row in enumerate(maze)
        for j, c in enumerate(row)
        if c == "1"
    }
    origin = base(env).data.qpos[:2] - obs["state"][:2]
    blocks = [model.geom(i) for i in range(model.ngeom) if model.geom(i).name.startswith("block")]
    assert {tuple(np.round(block.pos[:2] - origin, 3)) for block in blocks} == expected

    goals = []
    for seed in range(30):
        obs, _ = env.reset(seed=seed)
        assert np.abs(obs["state"][:2]).max() <= 0.1 + 1e-6
        goals.append(base(env).goal - origin)
        np.testing.assert_allclose(model.site("target").pos[:2], base(env).goal)
    goal = next((i, row.index("g")) for i, row in enumerate(maze) if "g" in row)
    from_cell = np.array(goals) - 4.0 * np.array([goal[1] - start[1], goal[0] - start[0]])
    assert from_cell.min() >= 0.0
    assert from_cell.max() <= 1.5
    assert np.ptp(from_cell, axis=0).min() > 0.5


def test_antmaze_ends_at_the_goal() -> None:
    env = make("antmaze-umaze")
    env.reset(seed=0)
    assert env.step(np.zeros(8, np.float32))[1:3] == (0.0, False)
    base(env).data.qpos[:2] = base(env).goal + np.array([0.3, 0.0])
    obs, reward, terminated, _, info = env.step(np.zeros(8, np.float32))
    assert (reward, terminated, info) == (1.0, True, {"success": True})
    assert obs["state"].shape == (29,)
    assert env.sim_state()[0] == pytest.approx(0.2)  # ten actions a second
    assert (base(env).model.actuator_gear[:, 0] == 30.0).all()


def test_mazes_are_not_written_where_other_processes_write_theirs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = make("antmaze-umaze")
    assert tempfile.gettempdir() == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    env.reset(seed=0)


# Adroit


def adroit_reward(name: str, env: GymEnv, obs: np.ndarray) -> float:
    """D4RL's reward from the state of the simulator; its bonuses are left out."""
    data = base(env).data

    def site(key: str) -> np.ndarray:
        return data.site(key).xpos

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a - b))

    palm = site("S_grasp")
    if name == "door":
        hinge = data.qpos[base(env).door_hinge_addrs]
        return -0.1 * distance(palm, site("S_handle")) - 0.1 * (hinge - 1.57) ** 2 - 1e-5 * np.sum(data.qvel**2)
    body = data.body("Object").xpos
    if name == "relocate":
        return -0.1 * distance(palm, body)
    nail, goal = site("S_target"), site("nail_goal")
    reward = -0.1 * distance(palm, body) - distance(site("tool"), nail) - 10 * distance(nail, goal)
    return reward - 1e-2 * float(np.linalg.norm(data.qvel))


@pytest.mark.parametrize("name", ["door", "hammer", "relocate"])
def test_adroit_rewards_are_those_of_d4rl(name: str) -> None:
    env = make(name)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        obs, reward, *_ = env.step(rng.uniform(-0.3, 0.3, env.action_space.shape).astype(np.float32))
        assert reward == pytest.approx(adroit_reward(name, env, obs["state"]), abs=1e-6)


def test_a_fallen_pen_ends_the_episode() -> None:
    env = make("pen")
    env.reset(seed=0)
    assert env.step(np.zeros(24, np.float32))[2] is False
    base(env).data.qpos[-6:-3] = [0.3, 0.3, -0.19]  # from where it starts, 0.25 above the table
    assert env.step(np.zeros(24, np.float32))[2] is True


# Kitchen


def test_kitchen_observes_and_succeeds_as_in_d4rl() -> None:
    for name, last in (("kitchen", "slide cabinet"), ("kitchen-mixed", "bottom burner")):
        env = make(name)
        obs, _ = env.reset(seed=0)
        state = obs["state"]
        assert state.shape == (60,)
        np.testing.assert_allclose(state[:30], base(env).data.qpos, atol=0.02)  # D4RL's noise
        assert last in base(env).goal
        for element, value in base(env).goal.items():
            indices = sys.modules["gymnasium_robotics.envs.franka_kitchen.kitchen_env"].OBS_ELEMENT_INDICES[element]
            np.testing.assert_array_equal(state[30:][indices], value.astype(np.float32))
            base(env).data.qpos[indices] = value
        _, reward, terminated, _, info = env.step(np.zeros(9, np.float32))
        assert (reward, terminated, info) == (4.0, True, {"success": True})
        env.reset(seed=1)
        assert env.step(np.zeros(9, np.float32))[4] == {"success": False}
