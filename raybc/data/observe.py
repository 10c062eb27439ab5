"""Observations from recorded states: the simulator is put into each of them, and observed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.envs.base import Obs, Restorable, SimEnv, StateObserver, Task
from raybc.types import UserError

#: Steps that are played at the end of an episode to learn whether its last action solves the task: a few, after which
#: controllers and grippers, which hold more than a state, are as they were.
LAST_STEPS = 5


def with_observations(
    store: EpisodeStore, task: Task, env: SimEnv, on_episodes: Callable[[int], None] | None = None
) -> EpisodeStore:
    """`store` with the observations of `env`, a simulator of `task`, in its recorded states.

    Where the environment tells success in a state, a step that leads to success has the reward 1 and the others 0 (the
    last actions are played). on_episodes: called with the number of finished episodes. Raises `UserError` for data
    without states and for states or actions of another size.
    """
    if store.states_NS is None:
        raise UserError(f"{store.source}: expected states of the simulator, to observe them in {task.name}, got none")
    if not isinstance(env, Restorable):
        raise UserError(f"{store.source}: {task.name}: this adapter ({type(env).__name__}) cannot start from a state")
    if store.actions_NA.shape[1:] != env.action_space.shape:
        raise UserError(
            f"{store.source}: expected actions of {task.name}, {env.action_space.shape}, got "
            f"{store.actions_NA.shape[1:]}; name the task that the data were recorded in with --env_name"
        )
    obs: dict[str, list[np.ndarray]] = {}
    rewards = np.zeros(len(store.actions_NA), np.float32)
    for number, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True)):
        try:
            found = _episode(env, store.states_NS[start:end], store.actions_NA[start:end])
        except UserError as error:
            raise UserError(f"{store.source}: episode {number}: {error}") from None
        for one, _ in found[:-1]:
            for key, value in one.items():
                obs.setdefault(key, []).append(value)
        rewards[start:end] = [solved for _, solved in found[1:]]
        if on_episodes is not None:
            on_episodes(number + 1)
    return dataclasses.replace(
        store,
        obs={key: np.stack(values) for key, values in obs.items()},
        rewards_N=rewards,
        success_E=np.maximum.reduceat(rewards, store.episode_starts) == 1 if isinstance(env, StateObserver) else None,
        checked=True,
    )


def _episode(env: SimEnv, states_TS: np.ndarray, actions_TA: np.ndarray) -> list[tuple[Obs, bool]]:
    """Observation and success in each of T states and after the last action, T + 1 in all."""
    assert isinstance(env, Restorable)
    obs = env.start_at(states_TS[0])
    if not isinstance(env, StateObserver):
        return [(obs, False), *((env.start_at(state), False) for state in states_TS[1:]), (obs, False)]
    # Without resets, so that what is computed from the state one step earlier is right, at the first as at a start.
    found = [env.observe_at(state) for state in states_TS]
    env.observe_at(states_TS[-LAST_STEPS:][0])
    for action in actions_TA[-LAST_STEPS:]:
        obs, _, _, _, info = env.step(action)
    return [*found, (obs, bool(info["success"]))]
