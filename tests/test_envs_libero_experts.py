"""LIBERO's scripted expert: where it grasps, and, where LIBERO's environment is built, what it solves (slow)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import raybc.data.__main__ as data_command
from raybc.cli import run_main
from raybc.cluster import session
from raybc.data import formats
from raybc.data.formats import libero
from raybc.demos.__main__ import main
from raybc.envs.libero import tasks_of
from raybc.envs.libero_experts import plan_grasp
from raybc.registry import get_task, parse_env_name
from raybc.types import EpisodeSpec
from tests.helpers import tiny_demos

SIDES = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
NOTHING = np.zeros((0, 8, 3))


def box(size: tuple[float, float, float], at: tuple[float, float] = (0.0, 0.0), turn: float = 0.0) -> np.ndarray:
    """The corners (1, 8, 3) of a box of this size (m) that stands on the ground, turned by `turn` rad."""
    c, s = np.cos(turn), np.sin(turn)
    corners = SIDES * np.array(size) / 2 @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return (corners + np.array([*at, size[2] / 2]))[None]


def test_a_box_is_grasped_across_its_narrow_side() -> None:
    point, yaw = plan_grasp(box((0.08, 0.04, 0.018), at=(0.1, -0.2)), NOTHING, hand_yaw=0.0)
    np.testing.assert_allclose(point, [0.1, -0.2, 0.012])  # low, but the fingers do not touch the ground
    assert yaw == pytest.approx(0.0)  # the fingers open along y
    _, yaw = plan_grasp(box((0.08, 0.04, 0.018), turn=np.pi / 3), NOTHING, hand_yaw=0.0)
    assert yaw == pytest.approx(np.pi / 3)
    _, yaw = plan_grasp(box((0.04, 0.08, 0.018)), NOTHING, hand_yaw=0.1)
    assert abs(yaw) == pytest.approx(np.pi / 2)


def test_a_tall_thing_is_grasped_below_its_top_where_its_neck_is() -> None:
    bottle = np.concatenate([box((0.06, 0.05, 0.1)), box((0.02, 0.02, 0.15), at=(0.01, 0.0))])
    point, _ = plan_grasp(bottle, NOTHING, hand_yaw=0.0)
    np.testing.assert_allclose(point, [0.01, 0.0, 0.15 - 0.022], atol=1e-9)


def test_what_is_too_wide_is_grasped_by_its_rim() -> None:
    walls = [
        box((0.02, 0.005, 0.05), at=(-0.053 * np.sin(a), 0.053 * np.cos(a)), turn=a) for a in np.arange(0, 6.2, 0.2)
    ]
    bowl = np.concatenate(walls)
    point, yaw = plan_grasp(bowl, NOTHING, hand_yaw=0.0)
    assert np.linalg.norm(point[:2]) == pytest.approx(0.052, abs=0.003)
    radial = point[:2] / np.linalg.norm(point[:2])
    assert abs(radial @ [-np.sin(yaw), np.cos(yaw)]) == pytest.approx(1.0, abs=0.01)
    aside = box((0.05, 0.05, 0.1), at=(0.0, float(np.sign(point[1])) * 0.1))
    other, _ = plan_grasp(bowl, aside, hand_yaw=0.0)
    assert np.linalg.norm(other[:2] - aside.mean(1)[0, :2]) > 0.1, "where nothing stands beside it"


def test_fingers_keep_clear_of_what_is_beside() -> None:
    can = box((0.05, 0.05, 0.08))
    neighbours = np.concatenate([box((0.05, 0.05, 0.08), at=(0.0, y)) for y in (-0.08, 0.08)])
    _, free = plan_grasp(can, NOTHING, hand_yaw=0.0)
    _, crowded = plan_grasp(can, neighbours, hand_yaw=0.0)
    assert free == pytest.approx(0.0)
    assert abs(crowded) > np.pi / 4


def test_which_tasks_have_an_expert() -> None:
    with_expert = [
        name for suite in ("libero_object", "libero_spatial", "libero_object_scene4") for name in tasks_of(suite)
    ]
    assert all(get_task(name).make_expert is not None for name in with_expert)
    assert all(parse_env_name(name).data == "scripted" for name in with_expert)
    assert get_task("libero_goal-0").make_expert is None
    assert parse_env_name("libero_goal-0").data == parse_env_name("libero_90-3").data == ""
    assert parse_env_name("libero_object-2-scripted-image").task == "libero_object-2@image"
    assert run_main(lambda: main(["libero_goal-0"])) == 2


def test_written_demonstrations_have_their_instruction_and_seeds(tmp_path: Path) -> None:
    for i, instruction in enumerate(("pick up the milk", "pick up the butter")):
        demos = tiny_demos(seed=i)
        libero.write(
            tmp_path / f"task{i}_demo.hdf5", demos, {"env_name": f"x-{i}", "type": 2}, {"raybc_key": "k"}, instruction
        )
    assert formats.detect(tmp_path / "task0_demo.hdf5") == formats.detect(tmp_path) == "libero"
    store = formats.read(tmp_path, states=True)
    assert store.tasks == ("pick up the milk",) * 3 + ("pick up the butter",) * 3
    demos = [*tiny_demos(seed=0), *tiny_demos(seed=1)]
    np.testing.assert_array_equal(store.actions_NA, np.concatenate([demo.actions for demo in demos]))
    for key in demos[0].obs:
        np.testing.assert_array_equal(store.obs[key], np.concatenate([demo.obs[key] for demo in demos]))
    assert libero.recorded_seeds(tmp_path) == [demo.seed for demo in demos]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "libero_object-1",
        "libero_object_scene0-milk",
        "libero_object_scene0-salad_dressing",
        "libero_spatial-0",
        "libero_goal-8",
    ],
)
def test_the_expert_solves_its_task(libero_home: Path, name: str) -> None:
    """At least two of three starts."""
    task = get_task(name)
    env = task.make(None)
    assert task.make_expert is not None
    solved = 0
    for start in range(3):
        seed = EpisodeSpec(name, "search", start).seed
        obs, info = env.reset(seed=seed)
        expert = task.make_expert(env, np.random.default_rng(seed), 1.0)
        for _ in range(task.max_steps):
            obs, _, _, _, info = env.step(expert.act(obs))
            if info["success"]:
                break
        solved += bool(info["success"])
    env.close()
    assert solved >= 2


@pytest.mark.slow
def test_unknown_cameras_are_refused_before_ray_starts(
    libero_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "ray_session", lambda *_, **__: pytest.fail("Ray was started"))
    assert run_main(lambda: main(["libero_object-0", "--cameras", "agent_view"])) == 2
    assert "did you mean 'agentview'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--cameras", "agentview", "--image_height", "32", "--image_width", "32"]])
def test_demonstrations_replay_as_recorded(libero_home: Path, tmp_path: Path, flags: list[str]) -> None:
    command = ["libero_object_scene7-milk", "--episodes", "1", "--workers", "1", "--noise", "0", "--out", str(tmp_path)]
    # In a process of its own: a Ray that other tests started has another home, without the environment.
    subprocess.run([sys.executable, "-m", "raybc.demos", *command, *flags], check=True, timeout=600)
    (file,) = tmp_path.glob("*.hdf5")
    assert file.name.startswith("libero_object_scene7-0")
    store = formats.read(file, images=True, states=True)
    assert store.tasks == ("pick up the milk and place it in the basket",)
    assert store.rewards_N is not None
    assert store.rewards_N[-1] == 1
    images = {key: value for key, value in store.obs.items() if value.dtype == np.uint8}
    assert set(images) == ({"agentview_image"} if flags else set())
    assert all(image.shape[1:] == (32, 32, 3) for image in images.values())
    assert run_main(lambda: data_command.main(["verify", str(file), "--replay", "1"])) == 0
