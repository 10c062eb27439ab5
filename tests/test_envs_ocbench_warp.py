"""OCBench's tasks with MuJoCo Warp: names without the simulator, and, where its environment is built, worlds (slow).

There is no GPU in tests: Warp's CPU device simulates, a few worlds at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.envs import ocbench
from raybc.envs.base import RenderOptions
from raybc.envs.ocbench_warp import ENVIRONMENT, EXAMPLES, TASKS
from raybc.envs.spec import spec_of_task
from raybc.files import read_json
from raybc.registry import get_task, parse_env_name
from raybc.testing import check_rendering
from raybc.testing.envs import check_json, check_spaces, check_step
from raybc.types import UserError
from tests.helpers import ROOT

#: A fast task, and one of each other family.
LITE = "ocbench-block-lite-single-task1-v0"
OTHERS = (
    "ocbench-switch-lite-3x3-task2-v0",
    "ocbench-hanoi-lite-single-task1-v0",
    "ocbench-chamber-lite-easy-task1-v0",
    "ocbench-bowling-task1-v0",
)


def test_tasks_by_the_packages_names() -> None:
    assert len(TASKS) == len(ocbench.TASKS) == 55
    task = get_task("ocbench-chamber-hard-task2-v0")
    assert (task.suite, task.max_steps, task.fps, task.environment) == ("ocbench_warp", 5500, 50.0, ENVIRONMENT)
    assert (task.slots, task.gpu_slots, task.make_expert) == (4, 1024, None)
    assert task.make_batch is not None
    assert "demonstrations of ocbench-chamber-cpu-hard-task2-v0" in task.notes[0]
    assert parse_env_name(LITE).data == ""
    assert get_task(f"{LITE}@300").max_steps == 300
    assert get_task(f"{LITE}@300").gpu_slots == 1024


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{LITE}@image", "on the CPU, whose scores are others: ocbench-block-cpu-lite-single-task1-v0@image"),
        ("ocbench-block-lite-singel-task1-v0", f"did you mean '{LITE}'"),
    ],
)
def test_what_there_is_not(name: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        get_task(name)
    assert words in str(error.value)


def test_the_lock_file_is_that_of_the_cpu_with_mujoco_warp() -> None:
    def named(packages: Any) -> dict[str, str]:
        return dict(line.split("==") for line in packages)

    own, cpu = named(ENVIRONMENT.packages), named(ocbench.ENVIRONMENT.packages)
    assert own.keys() - cpu.keys() == {"mujoco-warp", "warp-lang"}
    assert {name: own[name] for name in cpu} == cpu
    assert own["mujoco-warp"] == own["mujoco"]


def test_nothing_of_it_is_imported_here() -> None:
    code = f"import sys; from raybc.registry import get_task; get_task({LITE!r})\n"
    code += "print([m for m in ('torch', 'ray', 'ocbench', 'mujoco', 'warp', 'mujoco_warp') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "[]"


def test_without_its_environment_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"^environment ocbench_warp: missing .*; raybc env build ocbench_warp$"):
        spec_of_task(get_task(EXAMPLES[0]))


def inside(code: str, **variables: str) -> Any:
    """What a program prints as JSON in a process of the environment."""
    program = "import json, warnings; warnings.simplefilter('ignore'); import numpy as np\n" + code
    ran = subprocess.run(
        [str(ENVIRONMENT.python), "-P", "-c", program],
        capture_output=True, text=True, timeout=1500, env=os.environ | ENVIRONMENT.variables() | variables,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_names_are_the_packages(ocbench_warp_home: Path) -> None:
    found = inside(f"import ocbench; print(json.dumps([ocbench.parse_env_spec(name)[1::2] for name in {list(TASKS)}]))")
    assert [tuple(each) for each in found] == [("mjwarp", kind.max_steps) for kind in TASKS.values()]


@pytest.mark.slow
def test_an_episode_is_that_of_the_package(ocbench_warp_home: Path) -> None:
    """Its environment of one world, as its users make it, with the same seed and actions. (It adds up numbers in an
    order that depends on the number of worlds, so the last bits differ after a while.)"""
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 7)).astype(np.float32)
    found = inside(
        "import ocbench, warp; warp.config.enable_backward = False\n"
        f"env = ocbench.make({LITE.removeprefix('ocbench-')!r}, nworld=1, use_cuda_graph=False)\n"
        "rows = [env.reset(seed=7)[0][0].tolist()]\n"
        f"for action in {actions.tolist()}: rows.append(env.step(np.array([action], np.float32))[0][0].tolist())\n"
        "print(json.dumps(rows))"
    )
    env = get_task(LITE).make(None)
    rows = [env.reset(seed=7)[0]["state"], *(env.step(action)[0]["state"] for action in actions)]
    identity = env.identity()
    env.close()
    np.testing.assert_array_equal(rows[0], np.array(found[0], np.float32))
    np.testing.assert_allclose(np.array(rows), np.array(found), atol=1e-3)
    assert identity["physics"] == "MuJoCo Warp on the CPU"
    assert identity["environment"] == ENVIRONMENT.key
    assert identity["mujoco-warp"] == "3.14.0"


@pytest.mark.slow
def test_conformance_and_videos(ocbench_warp_home: Path) -> None:
    """The checks of `check_task` that take few steps; those of repetitions are `test_worlds_are_independent`'s."""
    task = get_task(LITE)
    env = task.make(None)
    for check in (check_spaces, check_step):
        check(task, env)
    check_json(env)
    env.close()
    check_rendering(task, steps=3)
    with pytest.raises(UserError, match="expected one of front, front_pixels, side, wrist; got 'wirst'"):
        task.make(RenderOptions(camera="wirst"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [LITE, OTHERS[0]])
def test_worlds_are_independent(ocbench_warp_home: Path, name: str) -> None:
    """Bit for bit. (`raybc.testing` also imports checks of policies, which need torch.)"""
    path = ROOT / "raybc/testing/batched.py"
    inside(
        f"import runpy; from raybc.registry import get_task\n"
        f"runpy.run_path({str(path)!r})['check_batched'](get_task({name!r}), steps=6)\nprint(1)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS[1:])
def test_other_families_step(ocbench_warp_home: Path, name: str) -> None:
    """Observations as on the CPU, and resets of single worlds."""
    task = get_task(name)
    found = inside(
        f"from raybc.registry import get_task; env = get_task({name!r}).make_batch(2)\n"
        "first = env.reset({0: 5, 1: 6}).obs['state']; again = env.reset({0: 6}).obs['state']\n"
        "step = env.step(np.zeros((2, 7), np.float32), np.ones(2, bool))\n"
        "print(json.dumps([first.shape, bool((again[0] == first[1]).all()), dict(step.faults), step.reward.tolist()]))"
    )
    families = {"hanoi": 39, "chamber": 53, "bowling": 102}
    assert found == [[2, families[TASKS[name.removeprefix("ocbench-")].family]], True, {}, [0.0, 0.0]]
    assert task.has_success is not name.startswith("ocbench-bowling")


@pytest.mark.slow
def test_a_gpu_that_warp_does_not_find_is_refused(ocbench_warp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match=r"expected a GPU \(CUDA_VISIBLE_DEVICES=0\), but NVIDIA's Warp finds none"):
        get_task(LITE).make(None)


@pytest.mark.slow
def test_rollouts_through_ray(ocbench_warp_home: Path, tmp_path: Path) -> None:
    """One process with three worlds gives the rows of one world; the physics is stored with the score."""
    found = []
    for slots in (3, 1):
        out = tmp_path / str(slots)
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "raybc", "rollout", "module:tests.foreign_policies:waving"),
                *("--env_name", f"{LITE}@6", "--episodes", "4", "--workers", "1", "--deadline", "600"),
                *("--slots", str(slots), "--out", str(out)),
            ],
            cwd=ROOT, capture_output=True, text=True, timeout=1500,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
        assert [row["outcome"] for row in rows] == ["timeout"] * 4, rows[0]["message"]
        found.append([{key: value for key, value in row.items() if key != "seconds"} for row in rows])
        assert read_json(out / "versions.json")["simulator"]["physics"] == "MuJoCo Warp on the CPU"
    assert found[0] == found[1]
