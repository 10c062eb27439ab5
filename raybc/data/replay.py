"""Recorded actions played again: do the demonstrations still succeed in the simulator that is installed here?

An episode begins where its recording began: at the seed that raybc.demos writes down, in the recorded state of the
simulator, or (PushT) in the recorded positions. Letters: E episodes, T steps, A action dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from raybc.data.formats import base, robomimic
from raybc.data.formats.base import Wanted
from raybc.data.scan import Block, Source
from raybc.envs.base import Restorable, SimEnv, Task
from raybc.envs.robosuite import ROBOSUITE_TYPE
from raybc.registry import TASKS, get_task
from raybc.types import UserError

#: What an array of an npz file with the start of each episode is called, for `start_at`.
STARTS = "seed_state"


@dataclass(frozen=True)
class Replayed:
    """One episode. recorded: whether the data say that it succeeded (None: they do not say). success: whether it did
    again, at any step. max_reward: the highest of a step (PushT's score). steps: of the recording that were played."""

    episode: int
    recorded: bool | None
    success: bool
    max_reward: float
    steps: int


@dataclass(frozen=True)
class Replay:
    """task: where. start: how the episodes were begun."""

    task: str
    start: str
    episodes: tuple[Replayed, ...]

    @property
    def successes(self) -> int:
        return sum(e.success for e in self.episodes)

    @property
    def mean_max_reward(self) -> float:
        return fmean(e.max_reward for e in self.episodes)

    def as_json(self) -> dict[str, object]:
        return dataclasses.asdict(self) | {"successes": self.successes, "mean_max_reward": self.mean_max_reward}

    def lost(self) -> tuple[int, ...]:
        """Episodes that succeeded when they were recorded and do not here."""
        return tuple(e.episode for e in self.episodes if e.recorded and not e.success)


def task_of_data(source: Source, env_args: Mapping[str, Any]) -> Task:
    """The task in which data were recorded: the one that is named, or else the one that they name themselves."""
    if source.task:
        return get_task(source.task)
    name = str(env_args.get("env_name", ""))
    if source.format == robomimic.NAME and env_args.get("type") == ROBOSUITE_TYPE:
        return get_task(f"dataset:{source.path}")
    if name.lower() in TASKS:
        return get_task(name.lower())
    raise UserError(
        f"{source.path}: --replay: the data name no environment that is known here (env_args: {name or 'none'}); name "
        "the task with --env_name"
    )


def replay(
    source: Source,
    task: Task,
    env: SimEnv,
    episodes: np.ndarray,
    success_E: np.ndarray | None,
    on_episode: Callable[[int, int], None] | None = None,
) -> Replay:
    """Play the recorded actions of `episodes` in `env`. on_episode: how many are played, and how many succeeded.

    Raises `UserError` where the task knows no success, or where nothing says how an episode began.
    """
    if not task.has_success:
        raise UserError(f"--replay: {task.name} has no notion of success, so a replay would show nothing")
    recorded, start, begin = _recording(source, env, episodes)
    played: list[Replayed] = []
    for episode in episodes.tolist():
        begin(episode)
        success, rewards = False, []
        for action in recorded[episode]:
            _, reward, terminated, _, info = env.step(action)
            success = success or bool(info["success"])
            rewards.append(float(reward))
            if terminated:
                break
        said = None if success_E is None else bool(success_E[episode])
        played.append(Replayed(episode, said, success, max(rewards), len(rewards)))
        if on_episode is not None:
            on_episode(len(played), sum(e.success for e in played))
    return Replay(task.name, start, tuple(played))


def _recording(
    source: Source, env: SimEnv, episodes: np.ndarray
) -> tuple[dict[int, np.ndarray], str, Callable[[int], object]]:
    """The actions (T, A) of the episodes, how they begin in words, and the function that begins one."""
    wanted = set(episodes.tolist())
    actions: dict[int, np.ndarray] = {}
    states: dict[int, np.ndarray] = {}

    def keep(block: Block) -> None:
        for episode, rows in block.episodes():
            if episode in wanted:
                actions[episode] = np.array(block.arrays["actions"][rows])
                if "states" in block.arrays:
                    states[episode] = np.array(block.arrays["states"][rows.start])

    source.scan(keep, Wanted(states=True))
    seeds = robomimic.recorded_seeds(source.path) if source.format == robomimic.NAME else None
    if seeds is not None:
        return actions, "the recorded seed", lambda episode: env.reset(seed=seeds[episode])
    how = "the recorded state"
    if not states:
        states, how = _starts(source.path, wanted), f"the recorded {STARTS}"
    if not states:
        raise UserError(
            f"{source.path}: --replay: nothing says how an episode began: expected states of the simulator, seeds of "
            f"raybc.demos, or an array {STARTS} beside episode_ends"
        )
    if not isinstance(env, Restorable):
        raise UserError(
            f"{source.path}: --replay: this adapter ({type(env).__name__}) cannot begin in a recorded state"
        )
    at = env.start_at
    return actions, how, lambda episode: at(states[episode])


def _starts(path: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """The starts that an npz file with `episode_ends` holds beside its rows, if it does."""
    if STARTS not in base.npz_names(path):
        return {}
    starts = base.Npz(path)[STARTS]
    return {episode: starts[episode] for episode in wanted if episode < len(starts)}
