"""Conformance checks for batched simulators (`Task.make_batch`). Only numpy and the simulator are needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from raybc.envs.base import Task
from raybc.envs.batched import BatchedEnv, Worlds

#: What a world returned at its reset and at each step: observations, reward, terminated, truncated, success, state.
History = list[tuple[dict[str, np.ndarray], float, bool, bool, bool, np.ndarray]]


def check_batched(task: Task, steps: int = 12) -> None:
    """Raise an AssertionError unless the worlds of a batch are independent: an episode is the same, bit for bit, alone
    in a batch of one world, among others that begin, end and are reset, and after other episodes of its world.

    steps: length of the episode that is compared; it must not end before.
    """
    assert task.make_batch is not None, f"{task.name} has no make_batch"
    env = task.make_batch(1)
    try:
        expected = _play(env, 0, 11, _actions(env, 11, steps), {})
    finally:
        env.close()
    env = task.make_batch(4)
    try:
        assert env.worlds == 4, f"worlds: expected 4, got {env.worlds}"
        # Reset with another and alone; in worlds where nothing has run, and where something has.
        for world, others in ((2, {3: 0, 0: steps // 2}), (0, {1: steps // 3}), (3, {0: 0, 2: 1})):
            found = _play(env, world, 11, _actions(env, 11, steps), others)
            _compare(expected, found, f"world {world} of 4")
    finally:
        env.close()


def _play(env: BatchedEnv, world: int, seed: int, actions_SA: np.ndarray, others: Mapping[int, int]) -> History:
    """An episode in one world. others: world -> the step at which it is reset; it acts from then on."""
    begun = {world: seed} | {other: 20 + other for other, step in others.items() if step == 0}
    history: History = [_row(env, env.reset(begun), world, is_reset=True)]
    rng = np.random.default_rng(5)
    acts_N = np.isin(np.arange(env.worlds), list(begun))
    for step, action_A in enumerate(actions_SA, start=1):
        low, high = env.action_space.low, env.action_space.high
        actions_NA = rng.uniform(low, high, (env.worlds, len(low))).astype(np.float32)
        actions_NA[world] = action_A
        found = env.step(actions_NA, acts_N)
        kept = {name: rows.copy() for name, rows in found.obs.items()}
        history.append(_row(env, found, world))
        late = {other: 30 + other for other, at in others.items() if at == step}
        if late:
            env.reset(late)
            acts_N[list(late)] = True
        for name, rows in kept.items():
            np.testing.assert_array_equal(found.obs[name], rows, err_msg="a returned array was changed by a reset")
    return history


def _row(
    env: BatchedEnv, found: Worlds, world: int, is_reset: bool = False
) -> tuple[dict[str, np.ndarray], float, bool, bool, bool, np.ndarray]:
    for name, rows in found.obs.items():
        expected = (env.worlds, *(env.observation_space[name].shape or ()))
        assert rows.shape == expected, f"observation {name}: expected {expected}, got {rows.shape}"
        assert rows.dtype == env.observation_space[name].dtype, f"observation {name}: got {rows.dtype}"
    assert world not in found.faults, f"world {world}: {found.faults[world]}"
    obs = {name: rows[world].copy() for name, rows in found.obs.items()}
    ends = (
        (0.0, False, False)
        if is_reset
        else (float(found.reward[world]), bool(found.terminated[world]), bool(found.truncated[world]))
    )
    assert not any(ends[1:]), "the episode ended; expected one of more steps (see `steps`)"
    return (obs, *ends, bool(found.success[world]), env.sim_state(world).copy())


def _actions(env: BatchedEnv, seed: int, steps: int) -> np.ndarray:
    """Uniform actions (steps, A) float32."""
    low, high = env.action_space.low, env.action_space.high
    return np.random.default_rng(seed).uniform(low, high, (steps, len(low))).astype(np.float32)


def _compare(expected: History, found: History, where: str) -> None:
    for step, (a, b) in enumerate(zip(expected, found, strict=True)):
        np.testing.assert_equal(b, a, err_msg=f"{where}, step {step}: not as in a batch of one world")
