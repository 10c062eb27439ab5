"""Meta-World: 50 tasks whose episodes are decided by their seed, shipped policies as experts, upright images."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raybc.envs import metaworld
from raybc.envs.base import EnvName, RenderOptions, SimEnv, Task
from raybc.testing.envs import Trace, assert_same, check_rendering, check_task, play, random_actions
from raybc.types import UserError

needs_metaworld = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None, reason="metaworld is missing: pip install 'raybc[metaworld]'"
)
FEW = ("reach", "pick-place", "drawer-open", "door-open")


def task_of(short: str) -> Task:
    task = metaworld.task(f"metaworld-{short}-v3")
    assert task is not None
    return task


def demonstrate(
    task: Task, env: SimEnv, seed: int, noise: float, steps: int = metaworld.MAX_STEPS
) -> np.ndarray | None:
    """The expert's actions (T, 4) up to success; None without success."""
    assert task.make_expert is not None
    obs, _ = env.reset(seed=seed)
    expert, actions = task.make_expert(env, np.random.default_rng([seed, 2]), noise), []
    for _ in range(steps):
        actions.append(expert.act(obs))
        obs, _, _, _, info = env.step(actions[-1])
        if info["success"]:
            return np.stack(actions)
    return None


def test_names() -> None:
    assert metaworld.parse("metaworld-push-v3") == EnvName("metaworld-push-v3", "metaworld-push-v3", "scripted")
    assert len(set(metaworld.TASKS)) == 50
    for name in ("push-v3", "lift", "cube-single-v0"):
        assert metaworld.parse(name) is None
        assert metaworld.task(name) is None
    for name in ("metaworld-pusch-v3", "metaworld-push-v2", "metaworld-push"):
        with pytest.raises(UserError, match="did you mean 'metaworld-push"):
            metaworld.parse(name)
    for example in metaworld.EXAMPLES:
        assert metaworld.task(example) is not None


@needs_metaworld
def test_names_are_those_of_the_package() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

    assert set(ALL_V3_ENVIRONMENTS) == set(ENV_POLICY_MAP) == {f"{name}-v3" for name in metaworld.TASKS}
    assert SawyerXYZEnv.max_path_length == metaworld.MAX_STEPS


@needs_metaworld
@pytest.mark.parametrize(
    "short", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in metaworld.TASKS]
)
def test_conformance(short: str) -> None:
    check_task(task_of(short))


@needs_metaworld
@pytest.mark.parametrize("short", ["pick-place", "door-open"])
def test_episodes_through_contact(short: str) -> None:
    """After others, in another instance, and in turn with another, as slots of one process are."""
    task = task_of(short)
    a, b = task.make(None), task.make(None)
    actions = demonstrate(task, a, 1, 0.0)
    assert actions is not None
    alone = play(a, 1, actions)
    assert alone[-1][3]
    demonstrate(task, a, 2, 1.0, steps=40)  # stopped with something in the hand
    assert_same(alone, play(a, 1, actions), "after other episodes")
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


@needs_metaworld
def test_goal_is_observed_and_decided_by_the_seed() -> None:
    env = task_of("push").make(None)
    starts = [env.reset(seed=seed)[0]["state"] for seed in range(4)]
    env.close()
    assert starts[0].shape == (39,)
    goals = np.array([start[36:] for start in starts])
    assert (np.abs(goals).max(axis=1) > 0).all(), "the goal is hidden"
    assert len(np.unique(goals[:, 0])) == 4
    assert len(np.unique(np.array(starts)[:, 4])) == 4, "objects start in one place"


@needs_metaworld
@pytest.mark.parametrize("short", ["reach", "push", "drawer-open"])
def test_expert_succeeds(short: str) -> None:
    task = task_of(short)
    env = task.make(None)
    runs = [demonstrate(task, env, seed, noise) for seed, noise in ((0, 0.0), (1, 0.0), (2, 1.0), (3, 1.0))]
    env.close()
    assert all(run is not None for run in runs)


@needs_metaworld
@pytest.mark.slow
@pytest.mark.parametrize("short", metaworld.TASKS)
def test_success_rates_of_experts(short: str) -> None:
    """At least half of noisy demonstrations succeed: what `raybc.demos` needs."""
    task = task_of(short)
    env = task.make(None)
    clean = [demonstrate(task, env, seed, 0.0) is not None for seed in range(5)]
    noisy = [demonstrate(task, env, seed, 1.0) is not None for seed in range(8)]
    env.close()
    assert sum(clean) >= 3, f"without noise {clean}"
    assert sum(noisy) >= 4, f"with noise {noisy}"


@needs_metaworld
def test_images() -> None:
    """Upright, and as promised. Run in a process of its own: environments that draw do not share one."""
    run = subprocess.run(
        [sys.executable, "-c", "from tests.test_envs_metaworld import check_images as c; c(); print('checked')"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if "no offscreen GL context" in run.stderr:
        pytest.skip("no offscreen GL context")
    assert "checked" in run.stdout, run.stderr


def check_images() -> None:
    task = task_of("push")
    check_rendering(task)
    env = task.make(RenderOptions(width=160, height=120))
    env.reset(seed=0)
    frame = np.asarray(env.render())
    env.close()
    red = (frame[..., 0].astype(int) - frame[..., 1:].max(axis=2)) > 60  # the arm, which stands on the floor
    assert red.sum() > 200
    wood = (frame[..., 0] > frame[..., 2] + 15) & ~red  # the table's top, lower than the arm
    assert np.argwhere(red)[:, 0].mean() < np.argwhere(wood)[:, 0].mean()


def test_missing_package_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(UserError) as error:
        task_of("reach").make(None)
    assert "pip install 'raybc[metaworld]'" in str(error.value)
