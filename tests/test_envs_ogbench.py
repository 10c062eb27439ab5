"""OGBench: names of environments and datasets, episodes decided by their seed, goals, oracles, images."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from raybc.envs import ogbench
from raybc.envs.base import EnvName, SimEnv, Task
from raybc.envs.ogbench_experts import solve_lights_out
from raybc.testing.envs import Trace, assert_same, check_task, play, random_actions
from raybc.types import UserError

needs_ogbench = pytest.mark.skipif(
    importlib.util.find_spec("ogbench") is None, reason="ogbench is missing: pip install 'raybc[ogbench]'"
)


def task_of(name: str) -> Task:
    task = ogbench.task(name)
    assert task is not None
    return task


def base(env: SimEnv) -> Any:
    """OGBench's own environment."""
    return env._env.unwrapped  # type: ignore[attr-defined]


def demonstrate(task: Task, env: SimEnv, seed: int, noise: float) -> np.ndarray | None:
    """The expert's actions (T, A) up to success; None without success."""
    assert task.make_expert is not None
    obs, _ = env.reset(seed=seed)
    expert, actions = task.make_expert(env, np.random.default_rng([seed, 2]), noise), []
    for _ in range(task.max_steps):
        actions.append(expert.act(obs))
        obs, _, _, _, info = env.step(actions[-1])
        if info["success"]:
            return np.stack(actions)
    return None


@pytest.mark.parametrize(
    ("name", "task", "data"),
    [
        ("cube-single-play-v0", "cube-single-v0", "play"),
        ("cube-double-noisy-v0", "cube-double-v0", "noisy"),
        ("cube-single-play-singletask-v0", "cube-single-singletask-v0", "play"),
        ("cube-single-play-singletask-task1-v0", "cube-single-singletask-task1-v0", "play"),
        ("visual-scene-play-v0", "visual-scene-v0", "play"),
        ("antmaze-medium-navigate-v0", "antmaze-medium-v0", "navigate"),
        ("antmaze-giant-stitch-singletask-task5-v0", "antmaze-giant-singletask-task5-v0", "stitch"),
        ("visual-antmaze-large-explore-v0", "visual-antmaze-large-v0", "explore"),
        ("humanoidmaze-giant-navigate-v0", "humanoidmaze-giant-v0", "navigate"),
        ("cube-single-v0", "cube-single-v0", "scripted"),
        ("puzzle-4x6-singletask-task2-v0", "puzzle-4x6-singletask-task2-v0", "scripted"),
        ("visual-cube-single-v0", "visual-cube-single-v0", "scripted"),
        ("antmaze-medium-v0", "antmaze-medium-v0", ""),
        ("scene-v0", "scene-v0", "scripted"),
        ("cube-octuple-v0", "cube-octuple-v0", ""),
    ],
)
def test_names(name: str, task: str, data: str) -> None:
    assert ogbench.parse(name) == EnvName(name, task, data)
    found = task_of(task)
    assert found.name == task
    if data == "scripted":
        assert found.make_expert is not None


def test_examples() -> None:
    for name in ogbench.EXAMPLES:
        parsed = ogbench.parse(name)
        assert parsed is not None
        assert ogbench.task(parsed.task) is not None


@pytest.mark.parametrize(
    "name",
    [
        *("antmaze-medium-play-v2", "antmaze-medium-play-v0", "antmaze-large-diverse-v0", "antmaze-umaze-v0"),  # D4RL
        *("kitchen-mixed-v0", "lift-scripted-low_dim", "cube-single", "cube-single-navigate-v0", "cube-single-v1"),
        *("visual-pointmaze-medium-v0", "cube-single-play-singletask-task6-v0", "cube-nonuple-v0", "gym:Ant-v5"),
    ],
)
def test_names_of_others(name: str) -> None:
    assert ogbench.parse(name) is None
    assert ogbench.task(name) is None


def test_dataset_is_no_task() -> None:
    assert ogbench.task("cube-single-play-v0") is None


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(UserError, match="discrete actions"):
        ogbench.task("powderworld-easy-v0")


@needs_ogbench
def test_table_is_the_packages_registry() -> None:
    importlib.import_module("ogbench")
    registered = {
        name: spec
        for name, spec in gymnasium.registry.items()
        if str(spec.entry_point).startswith("ogbench.") and not name.startswith(("powderworld-", "online-"))
    }
    for name, spec in registered.items():
        task = task_of(name)
        assert task.max_steps == spec.max_episode_steps, name
        assert ("goal" in task.obs_keys) == ("singletask" not in name)
    tasks = ("", "-singletask", *(f"-singletask-task{i}" for i in range(1, 6)))
    names = {
        f"{prefix}{name}{suffix}-v0"
        for name, environment in ogbench.ENVIRONMENTS.items()
        for prefix in ("", *(("visual-",) if environment.visual else ()))
        for suffix in tasks
    }
    assert names == set(registered)


SLOW = (
    *("cube-double-v0", "cube-triple-singletask-task3-v0", "cube-quadruple-v0", "cube-octuple-v0", "scene-v0"),
    *("scene-singletask-task2-v0", "puzzle-4x4-v0", "puzzle-4x5-v0", "puzzle-4x6-singletask-v0"),
    *("pointmaze-teleport-v0", "antmaze-giant-v0", "humanoidmaze-medium-v0", "antsoccer-arena-v0"),
    *("visual-antmaze-medium-v0", "visual-cube-single-v0", "visual-cube-single-singletask-task1-v0"),
)


@needs_ogbench
@pytest.mark.parametrize(
    "name",
    [
        *("cube-single-v0", "cube-single-singletask-task1-v0", "puzzle-3x3-v0", "scene-singletask-v0"),
        *("pointmaze-medium-v0", "antmaze-medium-v0", "antmaze-teleport-singletask-task2-v0"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_conformance(name: str) -> None:
    try:
        check_task(task_of(name))
    except UserError as error:
        if "GL" not in str(error):
            raise
        pytest.skip(str(error))


@needs_ogbench
@pytest.mark.parametrize("name", ["cube-single-v0", "antmaze-medium-v0"])
def test_seed_decides_task_and_goal(name: str) -> None:
    env = task_of(name).make(None)
    ids, goals = [], []
    for seed in range(10):
        obs, _ = env.reset(seed=seed)
        ids.append(base(env).cur_task_id)
        goals.append(obs["goal"])
        assert obs["goal"].shape == obs["state"].shape
        moved, *_ = env.step(env.action_space.high)
        np.testing.assert_array_equal(moved["goal"], obs["goal"])
    env.close()
    assert ids == [1, 2, 3, 4, 5] * 2
    assert not np.array_equal(goals[0], goals[1])


@needs_ogbench
def test_singletask_has_the_task_of_its_name() -> None:
    env = task_of("cube-single-singletask-task3-v0").make(None)
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        assert set(obs) == {"state"}
        assert base(env).cur_task_id == 3
    env.close()


@needs_ogbench
def test_teleports_belong_to_the_episode() -> None:
    """They are drawn from numpy's global generator, which is the environment's only while it runs."""
    env = task_of("antmaze-teleport-v0").make(None)
    outs = []
    for disturb in (0, 1, 2):
        np.random.seed(disturb)  # noqa: NPY002 (what users of numpy's global generator do)
        before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr, call-overload] # noqa: NPY002
        env.reset(seed=4)
        places = []
        for _ in range(6):
            base(env).set_xy(np.array(base(env)._teleport_info["teleport_in_xys"][0]))
            env.step(np.zeros(8, np.float32))
            places.append(base(env).get_xy().tolist())
        outs.append(places)
        assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr, call-overload] # noqa: NPY002
    env.close()
    assert outs[0] == outs[1] == outs[2]
    assert len({tuple(np.round(place).tolist()) for place in outs[0]}) > 1


@needs_ogbench
@pytest.mark.parametrize("name", ["cube-single-v0", "puzzle-3x3-singletask-v0"])
def test_episodes_through_contact(name: str) -> None:
    """After others, in another instance, and in turn with another, as slots of one process are."""
    task = task_of(name)
    a, b = task.make(None), task.make(None)
    actions = demonstrate(task, a, 1, 1.0)
    assert actions is not None
    alone = play(b, 1, actions)
    assert alone[-1][3]
    play(a, 2, actions[:30])
    assert_same(alone, play(a, 1, actions), "in another instance, after other episodes")
    obs, info = a.reset(seed=1)
    together: Trace = [(obs, a.sim_state().copy(), 0.0, info["success"])]
    b.reset(seed=3)
    for mine, others in zip(actions, random_actions(b, 0, len(actions)), strict=True):
        b.step(others)
        obs, reward, _, _, info = a.step(mine)
        together.append((obs, a.sim_state().copy(), reward, info["success"]))
    assert_same(alone, together, "beside another")
    a.close()
    b.close()


@needs_ogbench
@pytest.mark.parametrize("name", ["cube-single-v0", "cube-single-singletask-task1-v0", "puzzle-3x3-v0", "scene-v0"])
def test_experts_succeed(name: str) -> None:
    task = task_of(name)
    env = task.make(None)
    runs = {
        (seed, noise): demonstrate(task, env, seed, noise)
        for seed, noise in ((0, 0.0), (1, 0.0), (2, 1.0), (3, 1.0), (4, 1.0))
    }
    env.close()
    failed = [run for run, actions in runs.items() if actions is None]
    assert not failed, f"(seed, noise) without success: {failed}"


@needs_ogbench
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("base_name", sorted(ogbench.SCRIPTED))
def test_success_rates_of_experts(base_name: str, noise: float) -> None:
    task = task_of(f"{base_name}-v0")
    env = task.make(None)
    solved = [demonstrate(task, env, seed, noise) is not None for seed in range(10)]
    env.close()
    assert sum(solved) >= 8, f"seeds without success: {np.flatnonzero(np.logical_not(solved)).tolist()}"


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (4, 4), (4, 5), (4, 6)])
def test_lights_out(rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        pressed = rng.random((rows, columns)) < 0.5

        def lit(presses: np.ndarray) -> np.ndarray:
            lights = np.zeros((rows + 2, columns + 2), int)
            for i, j in np.argwhere(presses.reshape(rows, columns)):
                for di, dj in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
                    lights[1 + i + di, 1 + j + dj] ^= 1
            return lights[1:-1, 1:-1].ravel()

        found = solve_lights_out(rows, columns, lit(pressed).astype(bool))
        np.testing.assert_array_equal(lit(found), lit(pressed))


@needs_ogbench
@pytest.mark.parametrize("name", ["cube-single-v0", "antmaze-medium-v0", "scene-singletask-v0"])
def test_images(name: str) -> None:
    """Run in a process of its own: environments that draw do not share one."""
    code = (
        "import sys; from raybc.envs import ogbench; from raybc.testing.envs import check_rendering\n"
        "check_rendering(ogbench.task(sys.argv[1])); print('checked')\n"
    )
    run = python(code, name)
    if "no offscreen GL context" in run.stderr:
        pytest.skip("no offscreen GL context")
    assert "checked" in run.stdout, run.stderr


@needs_ogbench
def test_a_film_leaves_what_is_observed_alone() -> None:
    """Run in processes of their own: environments that draw do not share one."""
    code = (
        "import sys, hashlib, numpy as np; from raybc.envs import ogbench; from raybc.envs.base import RenderOptions\n"
        "env = ogbench.task('visual-antmaze-medium-v0').make(eval(sys.argv[1]))\n"
        "obs, _ = env.reset(seed=1); sha = hashlib.sha256(obs['goal'].tobytes())\n"
        "for _ in range(3):\n"
        "    if len(sys.argv[1]) > 4: assert env.render().shape == (48, 80, 3)\n"
        "    obs, *_ = env.step(np.ones(8, np.float32)); sha.update(obs['pixels'].tobytes())\n"
        "assert obs['pixels'].shape == (64, 64, 3) and obs['pixels'].std() > 10; print('sha', sha.hexdigest())\n"
    )
    runs = [python(code, arguments) for arguments in ("None", "RenderOptions(width=80, height=48)")]
    if any("no offscreen GL context" in run.stderr for run in runs):
        pytest.skip("no offscreen GL context")
    first, second = (run.stdout.split()[-1] for run in runs)
    assert first == second


@needs_ogbench
@pytest.mark.skipif(sys.platform != "linux", reason="EGL is for Linux")
def test_missing_gl_names_the_debian_package() -> None:
    code = (
        "from raybc.envs import ogbench\n"
        "try: ogbench.task('visual-antmaze-medium-v0').make(None)\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    run = python(code, MUJOCO_GL="egl", PYOPENGL_PLATFORM="egl", __EGL_VENDOR_LIBRARY_DIRS="/nonexistent")
    assert "UserError" in run.stdout
    assert "apt-get install libegl1 libgl1-mesa-dri" in run.stdout


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh process at the root of the project."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_missing_package_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ogbench", None)
    with pytest.raises(UserError) as error:
        task_of("cube-single-v0").make(None)
    assert "pip install 'raybc[ogbench]'" in str(error.value)
