"""Episodes played in real simulators, as those who publish data would record them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.envs.base import Expert, Obs, SimEnv, Task
from raybc.testing.envs import random_actions


@dataclass(frozen=True)
class Played:
    """T steps. obs: name -> (T + 1, D). actions (T, A), rewards (T,), states (T + 1, S) of `sim_state`. success:
    whether the task was solved at any step. terminated: whether the environment ended it."""

    obs: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    states: np.ndarray
    success: bool
    terminated: bool


def played(env: SimEnv, obs: Obs, act: Callable[[int, Obs], np.ndarray], steps: int) -> Played:
    """From the present state of `env`, which observes `obs`, until it ends or succeeds, `steps` at most."""
    seen, states, actions, rewards = [obs], [env.sim_state()], [], []
    success = terminated = False
    for step in range(steps):
        actions.append(act(step, obs))
        obs, reward, terminated, _, info = env.step(actions[-1])
        seen.append(obs)
        states.append(env.sim_state())
        rewards.append(reward)
        success = success or bool(info["success"])
        if terminated or success:
            break
    named = {k: np.stack([o[k] for o in seen]) for k in obs}
    return Played(named, np.stack(actions), np.array(rewards), np.stack(states), success, terminated)


def at_random(task: Task, seeds: Sequence[int], steps: int = 40) -> list[Played]:
    """Episodes of random actions."""
    env, episodes = task.make(None), []
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        actions = random_actions(env, seed, steps)
        episodes.append(played(env, obs, lambda step, _, a=actions: a[step], steps))
    env.close()
    return episodes


def by_expert(task: Task, seeds: Sequence[int]) -> list[Played]:
    """What the task's scripted expert does, without its noise."""
    env, episodes = task.make(None), []
    assert task.make_expert is not None
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        expert: Expert = task.make_expert(env, np.random.default_rng(seed), 0.0)
        episodes.append(played(env, obs, lambda _, o, e=expert: e.act(o), task.max_steps))
    env.close()
    return episodes


def as_store(episodes: Sequence[Played], path: Path) -> EpisodeStore:
    """With states and, as `success`, whether each succeeded."""
    return EpisodeStore(
        obs={k: np.concatenate([e.obs[k][:-1] for e in episodes]) for k in episodes[0].obs},
        actions_NA=np.concatenate([e.actions for e in episodes]),
        rewards_N=np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        episode_ends=np.cumsum([len(e.actions) for e in episodes]),
        source=path,
        terminals_N=np.concatenate([[*[False] * (len(e.actions) - 1), e.terminated] for e in episodes]),
        states_NS=np.concatenate([e.states[:-1] for e in episodes]),
        success_E=np.array([e.success for e in episodes]),
    )


def write_d4rl(path: Path, episodes: Sequence[Played], infos: dict[str, np.ndarray]) -> None:
    """D4RL's own layout. infos: name -> rows (N, D) in the order of the episodes."""
    store = as_store(episodes, path)
    last = np.zeros(len(store.actions_NA), bool)
    last[store.episode_ends - 1] = True
    assert store.terminals_N is not None
    with h5py.File(path, "w") as file:
        file["observations"] = store.obs["state"]
        file["actions"], file["rewards"] = store.actions_NA, store.rewards_N
        file["terminals"], file["timeouts"] = store.terminals_N, last & ~store.terminals_N
        for name, rows in infos.items():
            file[f"infos/{name}"] = rows


def write_ogbench(path: Path, episodes: Sequence[Played], nq: int, nv: int) -> None:
    """OGBench's own layout: a row more than actions, states beside them, no rewards."""
    states = np.concatenate([e.states for e in episodes])
    arrays = {
        "observations": np.concatenate([e.obs["state"] for e in episodes]),
        "actions": np.concatenate([e.actions[[*range(len(e.actions)), -1]] for e in episodes]),
        "terminals": np.concatenate([np.eye(len(e.states), dtype=np.float32)[-1] for e in episodes]),
        "qpos": states[:, 1 : 1 + nq],
        "qvel": states[:, 1 + nq : 1 + nq + nv],
    }
    if states.shape[1] > 1 + nq + nv:
        arrays["button_states"] = states[:, 1 + nq + nv :].astype(np.int64)
    np.savez(path, **arrays)
