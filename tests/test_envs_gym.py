"""Gymnasium's environments, D4RL's and PushT keep the contract; names and spaces that do not fit are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from raybc.envs import callables, d4rl, gym
from raybc.envs.base import Task
from raybc.envs.gym import GymEnv
from raybc.envs.pusht import PUSHT, PUSHT_PIXELS, keypoints
from raybc.testing.envs import assert_same, check_task, play
from raybc.types import UserError

ROOT = Path(__file__).parents[1]


class Nested(gymnasium.Env[Any, Any]):
    """Dicts in dicts, an image, float64 and one array that is handed out for ever."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium's own convention)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float64)
    observation_space = gymnasium.spaces.Dict(
        {
            "robot": gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-9.0, 9.0, (2,), np.float64)}),
            "camera": gymnasium.spaces.Box(0, 255, (4, 6, 3), np.uint8),
        }
    )

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._x = np.zeros(2)
        self._image = np.zeros((4, 6, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._x[:] = self.np_random.uniform(-1, 1, 2)
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.dtype == np.float64
        self._x += 0.1 * action
        return self._obs(), float(self._x[0]), False, True, {"is_success": np.bool_(self._x[0] > 0)}

    def _obs(self) -> Any:
        self._image[:] = np.uint8(100 * abs(self._x[0]))
        return {"robot": {"x": self._x}, "camera": self._image}

    def render(self) -> Any:
        return np.repeat(np.repeat(self._image, 50, 0), 50, 1)


def nested(render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    return Nested(render_mode)


def named(name: str) -> Task:
    known = {
        "pusht": PUSHT,
        "pusht_pixels": PUSHT_PIXELS,
        "nested": callables.from_callable(f"{__name__}:nested", nested),
    }
    task = known.get(name) or d4rl.task(name) or gym.task(name)
    assert task is not None
    return task


@pytest.mark.parametrize(
    "name",
    [
        "halfcheetah",
        "hopper",
        "walker2d",
        "ant",
        "antmaze-umaze",
        "antmaze-large",
        "pen",
        "door",
        "hammer",
        "relocate",
        "kitchen",
        "kitchen-mixed",
        "pusht",
        "pusht_pixels",
        "gym:Pendulum-v1",
        "gym:HalfCheetah-v5",
        "gym:AdroitHandDoorSparse-v1",
        "gym:FetchReach-v4",
        "nested",
    ],
)
def test_conforms(name: str) -> None:
    check_task(named(name))


def test_images_change_no_outcome() -> None:
    """In a process of its own: GL contexts of different packages do not share one well."""
    names = ["halfcheetah", "ant", "antmaze-umaze", "door", "kitchen", "pusht", "pusht_pixels", "gym:Pendulum-v1"]
    code = f"""
from raybc.envs.base import RenderOptions
from raybc.types import UserError
from raybc.testing.envs import check_rendering
from tests.test_envs_gym import named
try:
    named("hopper").make(RenderOptions()).close()
except UserError as error:
    raise SystemExit(77 if "GL" in str(error) else 1)
for name in {names}:
    check_rendering(named(name))

# Two that draw in turns, one of them closed in between: each keeps to its own scene.
def start(name):
    env = named(name).make(RenderOptions(64, 64))
    env.reset(seed=0)
    return env

expected = dict()
for name in ("hopper", "door"):
    env = start(name)
    expected[name] = env.render()
    env.close()
hopper, door = start("hopper"), start("door")
for _ in range(2):
    assert (hopper.render() == expected["hopper"]).all()
    assert (door.render() == expected["door"]).all()
hopper.close()
del hopper
assert (door.render() == expected["door"]).all()
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    if run.returncode == 77:
        pytest.skip("no GL library: apt-get install libegl1 libgl1-mesa-dri")
    assert run.returncode == 0, run.stderr[-3000:]


def test_cameras_are_checked() -> None:
    code = """
from raybc.envs.base import RenderOptions
from tests.test_envs_gym import named
named("halfcheetah").make(RenderOptions(camera="track")).close()
named("halfcheetah").make(RenderOptions(camera="front"))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    if "no offscreen GL context" in run.stderr:
        pytest.skip("no GL library: apt-get install libegl1 libgl1-mesa-dri")
    assert "UserError: camera of halfcheetah: expected one of track; got 'front'" in run.stderr
    from raybc.envs.base import RenderOptions

    with pytest.raises(UserError, match="no named cameras, got 'front'"):
        named("gym:Pendulum-v1").make(RenderOptions(camera="front"))


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_observations_and_actions_are_those_of_the_environment() -> None:
    raw, env = gymnasium.make("HalfCheetah-v4"), named("halfcheetah").make(None)
    expected, _ = raw.reset(seed=3)
    obs, _ = env.reset(seed=3)
    for i in range(30):
        np.testing.assert_array_equal(obs["state"], expected.astype(np.float32))
        action = np.full(6, np.sin(i), np.float32)
        expected, reward, *_ = raw.step(action)
        obs, ours, *_ = env.step(action)
        assert ours == reward
    assert env.sim_state().shape == (1 + 9 + 9,)
    assert env.sim_state()[0] == pytest.approx(30 * 0.05)


def test_nested_observations() -> None:
    task = named("nested")
    assert (task.obs_keys, task.fps, task.has_success, task.max_steps) == (("camera", "robot/x"), 5.0, True, 1000)
    env = task.make(None)
    obs, _ = env.reset(seed=0)
    assert (obs["camera"].shape, obs["camera"].dtype) == ((4, 6, 3), np.uint8)
    *_, truncated, info = env.step(np.array([2.0, 0.0], np.float32))
    assert truncated is True
    assert info == {"success": bool(obs["robot/x"][0] > -0.2)}
    assert env.sim_state().shape == (0,)

    some = GymEnv(lambda _: nested(), name="some", obs_names={"robot/x": "position"})
    assert list(some.reset(seed=0)[0]) == ["position"]
    with pytest.raises(UserError, match=r"among camera, robot/x; got \['robot'\]"):
        GymEnv(lambda _: nested(), name="some", obs_names={"robot": "position"})


def test_step_limits() -> None:
    assert gym.task("gym:Pendulum-v1").max_steps == 200  # type: ignore[union-attr]
    assert callables.from_callable("a:b", lambda: gymnasium.make("Pendulum-v1", max_episode_steps=7)).max_steps == 7

    def limited() -> gymnasium.Env[Any, Any]:
        return nested()

    limited.max_steps = 33  # type: ignore[attr-defined]
    assert callables.from_callable("a:limited", limited).max_steps == 33


def test_names() -> None:
    parsed = gym.parse("gym:Pendulum-v1")
    assert parsed is not None
    assert (parsed.task, parsed.data) == ("gym:Pendulum-v1", "")
    assert gym.parse("lift-scripted-low_dim") is None
    assert gym.task("lift") is None
    assert gym.task("gym:gym_pusht/PushT-v0") is not None  # its package registers it and is imported for that
    assert gym.task("gym:gym_pusht:gym_pusht/PushT-v0") is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:Pendulm-v1", "did you mean 'gym:Pendulum-v1'"),
        ("gym:Pendulum", "did you mean 'gym:Pendulum-v1'"),
        ("gym:nowhere/Bar-v0", "unknown environment 'gym:nowhere/Bar-v0'"),
        ("gym:CartPole-v1", r"needs a 1-D Box with finite bounds of floating-point numbers; got Discrete\(2\)"),
        ("gym:Blackjack-v1", "observations of gym:Blackjack-v1: expected vectors"),
        ("gym:LunarLander-v3", "gym:LunarLander-v3: Box2D is not installed"),
        ("gym:HalfCheetah-v3", "gym:HalfCheetah-v3: "),
    ],
)
def test_refusals(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gym.task(name)


def test_functions_that_make_no_environment_are_refused() -> None:
    with pytest.raises(UserError, match="expected a function that returns a gymnasium environment; it returned 3"):
        callables.from_callable("mine:three", lambda: 3)


def test_bad_actions_are_refused() -> None:
    env = named("gym:Pendulum-v1").make(None)
    env.reset(seed=0)
    for action in (np.array([np.nan], np.float32), np.zeros(2, np.float32)):
        with pytest.raises(ValueError, match=r"action of gym:Pendulum-v1: expected \(1,\) finite"):
            env.step(action)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_diverged_simulation_raises(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo would go on from its start; it also writes MUJOCO_LOG.TXT where it stands."""
    monkeypatch.chdir(tmp_path)
    env = named("halfcheetah").make(None)
    env.reset(seed=0)
    for _ in range(steps):
        env.step(np.zeros(6, np.float32))
    env._data.qvel[3] = np.nan  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="the simulation of halfcheetah diverged"):
        env.step(np.zeros(6, np.float32))
    env.reset(seed=0)
    env.step(np.zeros(6, np.float32))


def test_an_observation_that_is_not_finite_raises() -> None:
    env = named("nested").make(None)
    env.reset(seed=0)
    env._env.unwrapped._x[1] = np.inf  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="diverged: it observes"):
        env.step(np.zeros(2, np.float32))


# PushT


def test_keypoints_are_those_of_the_simulator() -> None:
    env = PUSHT.make(None)
    base: Any = env._env.unwrapped  # type: ignore[attr-defined]
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        expected = base.get_keypoints(base._block_shapes).flatten()
        np.testing.assert_allclose(obs["keypoints"], expected, atol=1e-4)
        exact = keypoints(np.array([[*base.block.position, base.block.angle]]))
        np.testing.assert_allclose(exact[0], expected, atol=1e-9)
    assert keypoints(np.zeros((4, 3))).shape == (4, 16)


def test_pusht_forgets_contacts() -> None:
    """An agent that runs into the block: bit for bit the same after other episodes and in another instance."""
    env, other = PUSHT.make(None), PUSHT.make(None)
    obs, _ = env.reset(seed=5)
    actions = []
    for i in range(60):
        actions.append((obs["block_pose"][:2] + 40 * np.sin(i / 7)).astype(np.float32))
        obs, *_ = env.step(actions[-1])
    start = env.sim_state()
    first = play(other, 5, np.stack(actions))
    assert np.abs(first[-1][1][2:4] - first[0][1][2:4]).max() > 10, "the block was not moved"
    play(env, 6, np.stack(actions))
    assert_same(first, play(env, 5, np.stack(actions)), "after other episodes")
    np.testing.assert_array_equal(start, env.sim_state())


def test_pusht_replays_human_demonstrations(human_pusht_npz: Path) -> None:
    with np.load(human_pusht_npz) as data:
        ends, starts = data["episode_ends"], data["seed_state"]
        states, actions, rewards = data["state"], data["action"], data["reward"]
    env = PUSHT.make(None)
    first = 0
    for episode in range(5):
        obs, _ = env.reset(seed=0, options={"reset_to_state": starts[episode]})
        for i in range(first, ends[episode]):
            np.testing.assert_allclose(np.concatenate([obs["agent_pos"], obs["block_pose"]]), states[i], atol=1e-3)
            np.testing.assert_allclose(obs["keypoints"], keypoints(states[i : i + 1, 2:])[0], atol=1e-2)
            obs, reward, *_ = env.step(actions[i])
            if i + 1 < ends[episode]:  # the last one was recorded as the one before
                assert reward == pytest.approx(rewards[i], abs=1e-4)
        first = ends[episode]


def test_pusht_success_is_coverage() -> None:
    env = PUSHT.make(None)
    base: Any = env._env.unwrapped  # type: ignore[attr-defined]
    for seed in range(20):
        env.reset(seed=seed)
        assert base._get_coverage() == pytest.approx(type(base)._get_coverage(base), abs=1e-12)  # gym_pusht's own
    base.block.angle = np.pi / 4
    base.block.position = (256, 256)
    base.agent.position = (50, 50)
    _, reward, terminated, _, info = env.step(np.array([50.0, 50.0], np.float32))
    assert (reward, terminated, info) == (1.0, True, {"success": True})
