"""OCBench's tasks: names without the simulator, and, where its environment is built, episodes (slow)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.data.replay import task_of_data
from raybc.data.scan import Source
from raybc.env.known import find
from raybc.env.remote import RemoteEnv
from raybc.envs.base import Restorable
from raybc.envs.ocbench import ENVIRONMENT, EXAMPLES, PREFIX, TASKS
from raybc.envs.spec import spec_of_task
from raybc.registry import get_task, parse_env_name
from raybc.testing import check_rendering, check_task
from raybc.types import UserError

#: One task of each family.
FAMILIES = (
    "ocbench-block-cpu-lite-double-task2-v0",
    "ocbench-chamber-cpu-lite-medium-task1-v0",
    "ocbench-switch-cpu-lite-3x3-task2-v0",
    "ocbench-hanoi-cpu-lite-double-task2-v0",
    "ocbench-bowling-cpu-task1-v0",
)


def test_tasks_by_the_packages_names() -> None:
    assert (len(TASKS), sum("-lite-" in name for name in TASKS)) == (55, 27), "28 tasks, all but bowling also as lite"
    task = get_task("ocbench-chamber-cpu-hard-task2-v0")
    assert (task.suite, task.max_steps, task.fps, task.environment) == ("ocbench", 5500, 50.0, ENVIRONMENT)
    assert (task.has_success, task.reward_range) == (True, (0.0, 1.0))
    lite = get_task("ocbench-chamber-cpu-lite-hard-task2-v0@300")
    assert (lite.max_steps, lite.fps) == (300, 10.0)
    assert get_task("ocbench-bowling-cpu-task1-v0").has_success is False, "it counts pins"
    assert parse_env_name("ocbench-hanoi-cpu-single-task1-v0").data == "scripted"
    assert find("ocbench") is ENVIRONMENT


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ocbench-block-cpu-singel-task1-v0", "did you mean 'ocbench-block-cpu-single-task1-v0'"),
        ("ocbench-block-cpu-single-task1", "did you mean 'ocbench-block-cpu-single-task1-v0'"),
        ("ocbench-block-cpu-single-task2-v0", "unknown task 'ocbench-block-cpu-single-task2-v0' of OCBench: did you"),
        ("block-cpu-single-task1-v0", "did you mean 'ocbench-block-cpu-single-task1-v0'"),
        (
            "ocbench-visual-block-single-task1-v0",
            "for images write ocbench-block-cpu-single-task1-v0@image (there are none of the simulation with MuJoCo",
        ),
        ("ocbench-visual-bowling-cpu-task1-v0", "for images write ocbench-bowling-cpu-task1-v0@image"),
    ],
)
def test_unknown_tasks(name: str, words: str) -> None:
    for look_up in (get_task, parse_env_name):
        with pytest.raises(UserError) as error:
            look_up(name)
        assert words in str(error.value)


def test_images_are_chosen_without_the_simulator() -> None:
    task = get_task("ocbench-switch-cpu-lite-4x4-task1-v0@image")
    assert task.images == ("front_image", "side_image", "wrist_image")
    assert task.obs_keys == ("robot", *task.images)
    one = get_task("ocbench-switch-cpu-lite-4x4-task1-v0@64x96,cameras=wrist")
    assert (one.images, one.slots) == (("wrist_image",), 1)


def test_the_lock_file_is_complete_and_nothing_of_it_is_imported_here() -> None:
    names = [line.split("==")[0].lower().replace("_", "-") for line in ENVIRONMENT.wanted]
    assert {"ocbench", "dm-control", "mujoco", "numpy", "ray", "gymnasium", "av"} <= set(names)
    assert len(set(names)) == len(names)
    assert not {"torch", "jax", "mujoco-warp", "warp-lang"} & set(names)
    code = "import sys; from raybc.registry import get_task; get_task('ocbench-block-cpu-single-task1-v0@image')\n"
    code += "print([m for m in ('torch', 'ray', 'ocbench', 'mujoco', 'dm_control') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "[]"


def test_without_its_environment_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"^environment ocbench: missing .*; raybc env build ocbench$"):
        spec_of_task(get_task("ocbench-block-cpu-single-task1-v0"))


def test_recorded_data_name_their_task(tmp_path: Path) -> None:
    source = Source(tmp_path / "x.hdf5", "robomimic", "")
    assert task_of_data(source, {"env_name": EXAMPLES[0], "type": 2}).name == EXAMPLES[0]


def packages_own(code: str) -> Any:
    """What a program prints as JSON in a process of the environment, where `gymnasium` and `ocbench` are imported."""
    program = "import json, warnings; warnings.simplefilter('ignore'); import gymnasium, ocbench, numpy as np\n" + code
    run = subprocess.run([str(ENVIRONMENT.python), "-c", program], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_table_is_the_packages_registry(ocbench_home: Path) -> None:
    found = packages_own(
        "print(json.dumps({i: (s.max_episode_steps, 1 / s.kwargs.get('control_timestep', 0.02)) "
        "for i, s in gymnasium.registry.items() "
        "if str(s.entry_point).startswith('ocbench.') and not i.startswith('visual-')}))"
    )
    assert {name: (kind.max_steps, kind.fps) for name, kind in TASKS.items()} == {k: tuple(v) for k, v in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_conformance(ocbench_home: Path, name: str) -> None:
    check_task(get_task(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES[:2])
def test_an_episode_is_that_of_the_package(ocbench_home: Path, name: str) -> None:
    """The package's environment, made as its users make it, with the same seed and actions."""
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 7)).astype(np.float32)
    found = packages_own(
        f"env = ocbench.make({name.removeprefix(PREFIX)!r}); obs, _ = env.reset(seed=7); rows = [obs.tolist()]\n"
        f"for action in {actions.tolist()}: rows.append(env.step(np.array(action, np.float32))[0].tolist())\n"
        "print(json.dumps(rows))"
    )
    env = get_task(name).make(None)
    rows = [env.reset(seed=7)[0]["state"], *(env.step(action)[0]["state"] for action in actions)]
    env.close()
    np.testing.assert_array_equal(np.array(rows), np.array(found, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_an_episode_continues_from_its_state(ocbench_home: Path, name: str) -> None:
    task, rng = get_task(name), np.random.default_rng(0)
    env, other = task.make(None), task.make(None)
    assert isinstance(other, Restorable)
    assert task.make_expert is not None
    obs, _ = env.reset(seed=5)
    expert = task.make_expert(env, rng, 1.0)
    for _ in range(40):
        obs, *_ = env.step(expert.act(obs))
    at_start = other.start_at(env.sim_state())
    np.testing.assert_allclose(at_start["state"], obs["state"], atol=0.05)  # up to 2 ms later
    for action in rng.uniform(-1, 1, (10, 7)).astype(np.float32):
        np.testing.assert_equal(other.step(action), env.step(action))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(other.sim_state(), env.sim_state())  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"expected .* positions"):
        other.start_at(np.zeros(5))
    env.close()
    other.close()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_images(ocbench_home: Path) -> None:
    name = "ocbench-block-cpu-lite-single-task1-v0"
    task = get_task(f"{name}@64x96")
    env = task.make(None)
    obs, _ = env.reset(seed=0)
    assert {name: obs[name].shape for name in task.images} == dict.fromkeys(task.images, (64, 96, 3))
    assert obs["robot"].shape == (19,)
    np.testing.assert_array_equal(obs["robot"], obs["state"][:19])
    for image in task.images:
        assert obs[image].astype(float).std() > 10, image
    assert env.identity()["images"].startswith("front,side,wrist 64x96")
    env.close()
    with pytest.raises(UserError, match="expected one of front, front_pixels, side, wrist, free; got 'wirst'"):
        get_task(f"{name}@cameras=wirst").make(None)


@pytest.mark.slow
def test_conformance_of_images_and_videos(ocbench_home: Path) -> None:
    check_task(get_task("ocbench-block-cpu-lite-single-task1-v0@48x64,cameras=wrist"))
    check_rendering(get_task("ocbench-block-cpu-lite-single-task1-v0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "noise", "at_least"),
    [("ocbench-block-cpu-lite-single-task1-v0", 1.0, 7), ("ocbench-switch-cpu-lite-3x3-task1-v0", 0.0, 8)],
)
def test_experts(ocbench_home: Path, name: str, noise: float, at_least: int) -> None:
    task = get_task(name)
    assert task.make_expert is not None
    env, solved = task.make(None), 0
    for seed in range(10):
        obs, info = env.reset(seed=seed)
        expert = task.make_expert(env, np.random.default_rng(seed), noise)
        for _ in range(task.max_steps):
            obs, _, terminated, _, info = env.step(expert.act(obs))
            if terminated:
                break
        solved += info["success"]
    env.close()
    assert solved >= at_least


@pytest.mark.slow
def test_what_a_score_depends_on(ocbench_home: Path) -> None:
    task = get_task("ocbench-block-cpu-lite-triple-task1-v0")
    spec = spec_of_task(task)
    assert spec.identity["physics"] == "MuJoCo on the CPU"
    assert spec.identity["environment"] == ENVIRONMENT.key
    assert spec.identity["mujoco"] == dict(line.split("==") for line in ENVIRONMENT.packages)["mujoco"]
    assert spec.identity["ocbench"] == "1.0.2"
    assert spec.action_size == 7
    env = task.make(None)
    assert isinstance(env, RemoteEnv)
    env.close()
    assert "mujoco" not in sys.modules or sys.modules["mujoco"].__version__ != spec.identity["mujoco"]
