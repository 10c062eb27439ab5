"""Conformance checks for environment adapters.

    from raybc.testing import check_task
    check_task(MY_TASK)

`check_rendering(MY_TASK)` checks rendered images; it needs a GL library.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np

from raybc.env.remote import MakeElsewhere
from raybc.envs.base import Obs, RenderOptions, SimEnv, Task
from raybc.testing.batched import check_batched

#: Packages that importing an adapter must not load; a simulator is loaded only when an environment is created.
HEAVY = (
    *("torch", "ray", "robosuite", "mujoco", "OpenGL", "numba", "ogbench", "gymnasium_robotics", "metaworld"),
    *("libero", "ocbench", "minari", "gym_pusht", "pymunk", "pygame", "dm_control", "warp", "mujoco_warp"),
)

#: (observation, sim_state, reward, success) of each step, from the start state on.
Trace = list[tuple[Obs, np.ndarray, float, bool]]


def check_task(task: Task) -> None:
    """Raise an AssertionError that names the first requirement of `raybc.envs.base` that `task` violates."""
    assert task.max_steps > 0
    assert task.fps > 0
    if task.reference_returns is not None:
        assert task.reference_returns[0] < task.reference_returns[1], f"reference_returns: {task.reference_returns}"
    check_light_import(task)
    env = task.make(None)
    try:
        check_spaces(task, env)
        check_step(task, env)
        check_json(env)
        check_determinism(task, env)
        if task.make_expert is not None:
            check_expert(task, env)
    finally:
        env.close()
    if task.make_batch is not None and (task.environment is None or task.environment.is_here):
        check_batched(task)


def check_light_import(task: Task) -> None:
    """Importing the adapter in a fresh process loads neither torch nor a simulator."""
    make: Any = task.make
    while isinstance(make, functools.partial | MakeElsewhere):
        make = make.func
    code = f"import sys, {make.__module__}; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "[]", f"importing {make.__module__} loads {run.stdout.strip()}"


def check_spaces(task: Task, env: SimEnv) -> None:
    """Check the types, shapes and dtypes of the spaces."""
    space = env.observation_space
    assert isinstance(space, gymnasium.spaces.Dict), f"observation_space is a Dict, got {space}"
    for key, box in space.items():
        assert isinstance(box, gymnasium.spaces.Box), f"{key}: expected a Box, got {box}"
        if box.dtype == np.uint8:
            assert box.shape[2:] == (3,), f"{key}: expected images (height, width, 3), got {box}"
            assert (box.low == 0).all(), f"{key}: expected 0 to 255, got {box}"
            assert (box.high == 255).all(), f"{key}: expected 0 to 255, got {box}"
            continue
        assert len(box.shape) == 1, f"{key}: expected a 1-D Box, got {box}"
        assert box.dtype == np.float32, f"{key}: expected float32, got {box}"
    assert set(task.obs_keys) <= set(space), f"obs_keys {task.obs_keys} are not all in {list(space)}"
    action = env.action_space
    assert isinstance(action, gymnasium.spaces.Box), f"action_space is a Box, got {action}"
    assert len(action.shape) == 1, f"expected a 1-D action_space, got {action}"
    assert action.dtype == np.float32, f"expected a float32 action_space, got {action}"
    assert action.is_bounded(), f"expected a bounded action_space, got {action}"


def check_obs(env: SimEnv, obs: Obs) -> None:
    assert set(obs) == set(env.observation_space), f"observed {sorted(obs)}, promised {sorted(env.observation_space)}"
    for key, value in obs.items():
        assert isinstance(value, np.ndarray), f"{key}: expected an array, got {type(value)}"
        expected = env.observation_space[key].dtype
        assert value.dtype == expected, f"{key}: expected {expected}, got {value.dtype}"
        assert np.isfinite(value).all(), f"{key}: {value}"
    assert env.observation_space.contains(obs), f"observation outside its space: {obs}"


def check_state(env: SimEnv) -> None:
    state = env.sim_state()
    assert state.dtype == np.float64, f"sim_state: expected float64, got {state.dtype}"
    assert state.ndim == 1, f"sim_state: expected 1-D, got {state.shape}"
    assert np.isfinite(state).all(), f"sim_state: {state}"


def check_step(task: Task, env: SimEnv) -> None:
    """Check observations, info and flags of a few steps; later steps must not modify returned arrays."""
    obs, _ = env.reset(seed=0)
    check_obs(env, obs)
    check_state(env)
    kept, copied = (obs, env.sim_state()), ({key: value.copy() for key, value in obs.items()}, env.sim_state().copy())
    for action in random_actions(env, seed=0, steps=5):
        obs, reward, terminated, truncated, info = env.step(action)
        check_obs(env, obs)
        check_state(env)
        assert isinstance(reward, float), f"reward: expected float, got {type(reward)}"
        low, high = task.reward_range or (-np.inf, np.inf)
        assert low <= reward <= high, f"reward: expected {low} to {high} (reward_range), got {reward}"
        assert isinstance(terminated, bool), f"terminated: expected bool, got {type(terminated)}"
        assert isinstance(truncated, bool), f"truncated: expected bool, got {type(truncated)}"
        assert type(info["success"]) is bool, f"info['success']: expected bool, got {type(info['success'])}"
        assert task.has_success or not info["success"], "info['success'] is true, but the task knows no success"
        if terminated or truncated:
            break
    np.testing.assert_equal(kept, copied, err_msg="a returned array was changed by later steps")


def check_json(env: SimEnv) -> None:
    args, identity = env.env_args(), env.identity()
    assert json.loads(json.dumps(args)) == args, "env_args: JSON values only"
    assert {"env_name", "type", "env_version", "env_kwargs"} <= set(args), f"env_args lacks keys: {sorted(args)}"
    assert json.loads(json.dumps(identity)) == identity, "identity: JSON values only"
    assert identity, "identity names at least the simulator"
    assert all(isinstance(value, str) for value in identity.values()), f"identity: strings only, got {identity}"


def random_actions(env: SimEnv, seed: int, steps: int) -> np.ndarray:
    """Uniform actions (steps, A) float32 inside the action space."""
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    unit = np.random.default_rng(seed).random((steps, *space.shape), dtype=np.float32)
    return np.clip(space.low + unit * (space.high - space.low), space.low, space.high)


def play(env: SimEnv, seed: int, actions: np.ndarray) -> Trace:
    """The trace of the episode `seed` with `actions` (steps, A), float32, or as many of them as it takes to its end."""
    obs, info = env.reset(seed=seed)
    trace: Trace = [(obs, env.sim_state().copy(), 0.0, bool(info.get("success", False)))]
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        trace.append((obs, env.sim_state().copy(), reward, info["success"]))
        if terminated or truncated:
            break
    return trace


def assert_same(a: Trace, b: Trace, message: str) -> None:
    """Raise an AssertionError with `message` unless two traces are bit-identical."""
    assert len(a) == len(b)
    for step, (x, y) in enumerate(zip(a, b, strict=True)):
        np.testing.assert_equal(x, y, err_msg=f"{message}: step {step} differs")


def check_determinism(task: Task, env: SimEnv) -> None:
    """Check that an episode depends only on its seed, not on earlier episodes or on the instance."""
    actions = random_actions(env, seed=1, steps=20)
    other = task.make(None)
    try:
        first = play(other, 11, actions)
    finally:
        other.close()
    play(env, 12, random_actions(env, seed=2, steps=13))
    play(env, 13, random_actions(env, seed=3, steps=2))
    assert_same(first, play(env, 11, actions), "the same seed and actions after other episodes")
    assert_same(first, play(env, 11, actions), "the same seed and actions twice in a row")
    start, _ = env.reset(seed=14)
    assert any(not np.array_equal(start[key], first[0][0][key]) for key in start), "seeds 11 and 14 start alike"


def _rendered(env: SimEnv) -> np.ndarray:
    image = env.render()
    assert isinstance(image, np.ndarray), f"render: expected an array, got {type(image).__name__}"
    return image


def check_rendering(task: Task, steps: int = 8) -> None:
    """Check that images have the requested size and show motion, and that rendering does not change the episode.

    Raises an AssertionError otherwise. steps: length of the episode.
    """
    plain = task.make(None)
    try:
        actions = random_actions(plain, seed=4, steps=steps)
        expected = play(plain, 31, actions)
    finally:
        plain.close()
    env = task.make(RenderOptions(width=96, height=64))
    images = []
    try:
        env.reset(seed=30)  # must not affect the next episode or its first image
        env.step(actions[-1])
        _rendered(env)
        obs, info = env.reset(seed=31)
        trace: Trace = [(obs, env.sim_state().copy(), 0.0, bool(info.get("success", False)))]
        images.append(_rendered(env))
        for action in actions:
            obs, reward, terminated, truncated, info = env.step(action)
            trace.append((obs, env.sim_state().copy(), reward, info["success"]))
            images.append(_rendered(env))
            if terminated or truncated:
                break
        again, _ = env.reset(seed=31)
        np.testing.assert_equal(again, trace[0][0])
        first = _rendered(env)
    finally:
        env.close()
    assert_same(expected, trace, "the same episode with images")
    for image in images:
        assert image.shape == (64, 96, 3), f"render: expected (64, 96, 3), got {image.shape}"
        assert image.dtype == np.uint8, f"render: expected uint8, got {image.dtype}"
        assert image.flags.c_contiguous, "render: expected a contiguous array"
        assert image.std() > 5, "render: a blank image"
    assert any(not np.array_equal(images[0], image) for image in images), "nothing moves in the images"
    np.testing.assert_array_equal(images[0], first, err_msg="the first image depends on the previous episode")


def check_expert(task: Task, env: SimEnv) -> None:
    """Check that actions are inside the space, and that the demonstration depends on the generator alone."""
    assert task.make_expert is not None

    def demonstrate(seed: int) -> np.ndarray:
        assert task.make_expert is not None
        obs, _ = env.reset(seed=21)
        expert, actions = task.make_expert(env, np.random.default_rng(seed), 1.0), []
        for _ in range(min(task.max_steps, 20)):
            actions.append(expert.act(obs))
            assert env.action_space.contains(actions[-1]), f"expert's action outside the space: {actions[-1]!r}"
            obs, _, terminated, truncated, info = env.step(actions[-1])
            if terminated or truncated or info["success"]:
                break
        return np.stack(actions)

    first = demonstrate(0)
    np.testing.assert_array_equal(first, demonstrate(0), err_msg="the expert depends on more than its generator")
    assert not np.array_equal(first, demonstrate(1)), "the expert does not use its generator"
