"""Recorded actions played again: do episodes in the simulator that is installed here go as they went?

What is compared is what data and task know: successes; returns (the measure where a task has no notion of success, or
the data do not mark it); and observations, which tell even where the data know neither, as OGBench's.

Contacts are chaotic: what D4RL rounded to float32 goes its own way after some hundred steps, though simulator and
actions are those of the recording. So where states are recorded at every step, single steps are played as well, each
from its recorded state. They tell the one from the other: 1e-7 standard deviations away as they should be, 0.2 to 1.3
with turned actions. Letters: E episodes, T steps, A action dim, D numbers of an observation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from raybc.data.formats import robomimic
from raybc.data.formats.base import ReadOptions
from raybc.data.scan import Block, Source
from raybc.data.starts import Recording, Starts, starts_of
from raybc.envs import d4rl, metaworld, ogbench
from raybc.envs.base import Judge, Obs, Restorable, SimEnv, Task
from raybc.envs.gym import GYM_TYPE, PREFIX, of_data
from raybc.envs.robosuite import ROBOSUITE_TYPE
from raybc.registry import TASKS, get_task
from raybc.types import UserError

#: Relative difference of returns from which on an episode did not go as recorded.
RETURN_TOLERANCE = 0.05
#: Of observations, in standard deviations, where neither success nor returns are known.
DRIFT_TOLERANCE = 0.5
#: Of observations after a single step from its recorded state (median), and how many steps of an episode are tried.
STEP_TOLERANCE, STEPS = 0.05, 50
#: Names of observations that are a goal. Success is not comparable where the recorded goal is another, or not known.
GOALS = ("goal", "desired_goal")


@dataclass(frozen=True)
class Replayed:
    """One episode. recorded: whether the data say that it succeeded (None: they do not say). success: whether it did
    again, at any step (None: the task knows no success, or not the goal of the recording). max_reward: the highest of a
    step (PushT's score). steps: of the recording that were played. recorded_return, replayed_return: sums of rewards
    (recorded None: the data have none). drift: how far observations went from the recorded ones at most, root mean
    square over their numbers, in standard deviations of the data (None: no observation is in both). step_drift: the
    same after single steps, in the median (None: no states, or success is known and says it)."""

    episode: int
    recorded: bool | None
    success: bool | None
    max_reward: float
    steps: int
    recorded_return: float | None = None
    replayed_return: float = 0.0
    drift: float | None = None
    step_drift: float | None = None

    @property
    def judged(self) -> bool:
        """Whether success says how the replay went. Of an episode that failed, and fails, it says nothing."""
        return self.recorded is not None and self.success is not None and (self.recorded or self.success)


@dataclass(frozen=True)
class Replay:
    """task: where. start: how the episodes were begun."""

    task: str
    start: str
    episodes: tuple[Replayed, ...]

    @property
    def successes(self) -> int | None:
        """None where success is known of no episode."""
        known = [e.success for e in self.episodes if e.success is not None]
        return sum(known) if known else None

    @property
    def mean_max_reward(self) -> float:
        return fmean(e.max_reward for e in self.episodes)

    @property
    def returns(self) -> tuple[float, float] | None:
        """The mean return when recorded and here; None where the data have no rewards."""
        told = [(e.recorded_return, e.replayed_return) for e in self.episodes if e.recorded_return is not None]
        return (fmean(r for r, _ in told), fmean(r for _, r in told)) if told else None

    @property
    def return_difference(self) -> float | None:
        """Of the means, relative to the recorded one; None where there is none or it is 0."""
        means = self.returns
        return None if means is None or means[0] == 0 else (means[1] - means[0]) / abs(means[0])

    @property
    def drifts(self) -> tuple[float, float] | None:
        """`Replayed.drift` of the median and of the worst episode."""
        return _middle_and_worst(e.drift for e in self.episodes)

    @property
    def step_drifts(self) -> tuple[float, float] | None:
        """`Replayed.step_drift` of the median and of the worst episode."""
        return _middle_and_worst(e.step_drift for e in self.episodes)

    def as_json(self) -> dict[str, object]:
        names = ("successes", "mean_max_reward", "returns", "return_difference", "drifts", "step_drifts")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in names}

    def lost(self) -> tuple[int, ...]:
        """Episodes that succeeded when they were recorded and do not here."""
        return tuple(e.episode for e in self.episodes if e.recorded and e.success is False)

    def elsewhere(self) -> tuple[int, ...]:
        """Episodes in which single steps lead elsewhere, where successes cannot be compared."""
        return self._where(lambda e: e.step_drift is not None and e.step_drift > STEP_TOLERANCE)

    def other_returns(self) -> tuple[int, ...]:
        """Episodes whose returns are others, where nothing else says that they went well."""
        return self._where(lambda e: e.step_drift is None and e.success is not True and _other_return(e))

    def drifted(self) -> tuple[int, ...]:
        """Episodes whose observations went elsewhere, where nothing else can be compared."""
        return self._where(
            lambda e: e.step_drift is None and e.recorded_return is None and (e.drift or 0) > DRIFT_TOLERANCE
        )

    def _where(self, odd: Callable[[Replayed], bool]) -> tuple[int, ...]:
        return tuple(e.episode for e in self.episodes if not e.judged and odd(e))


def _middle_and_worst(numbers: Iterable[float | None]) -> tuple[float, float] | None:
    told = [x for x in numbers if x is not None]
    return (median(told), max(told)) if told else None


def _other_return(episode: Replayed) -> bool:
    was = episode.recorded_return
    return was is not None and abs(episode.replayed_return - was) > RETURN_TOLERANCE * max(abs(was), 1e-6)


def task_of_data(source: Source, env_args: Mapping[str, Any]) -> Task:
    """The task in which data were recorded: the one that is named, or else the one that they name themselves."""
    if source.task:
        return get_task(source.task)
    name, kind = str(env_args.get("env_name", "")), env_args.get("type")
    if source.format == robomimic.NAME and kind == ROBOSUITE_TYPE:
        return get_task(f"dataset:{source.path}")
    if name.lower() in TASKS:
        return get_task(name.lower())
    # What raybc.demos names (type 2, as robomimic's), or Minari (no type). Never a module: data run no code.
    kwargs = env_args.get("env_kwargs")
    found = _task_named(name) if kind == GYM_TYPE else None
    if found is None and name and kind in (None, GYM_TYPE):
        found = of_data(name.removeprefix(PREFIX), kwargs if isinstance(kwargs, Mapping) else {})
    if found is not None:
        return found
    raise UserError(
        f"{source.path}: --replay: the data name no environment that is known here (env_args: {name or 'none'}); name "
        "the task with --env_name"
    )


def _task_named(name: str) -> Task | None:
    return next((task for task in (family.task(name) for family in (d4rl, ogbench, metaworld)) if task), None)


def replay(
    source: Source,
    task: Task,
    env: SimEnv,
    episodes: np.ndarray,
    success_E: np.ndarray | None,
    on_episode: Callable[[int, int], None] | None = None,
) -> Replay:
    """Play the recorded actions of `episodes` in `env`. on_episode: how many are played, and how many succeeded.

    Raises `UserError` where nothing says how an episode began, and where actions or states are not finite.
    """
    recorded = _recordings(source, set(episodes.tolist()))
    size = recorded[int(episodes[0])].actions.shape[1:]
    if env.action_space.shape != size:
        raise UserError(
            f"{source.path}: --replay: expected actions of {task.name}, {env.action_space.shape}, got {size}; name the "
            "task that the data were recorded in with --env_name"
        )
    for episode, recording in recorded.items():
        for what, numbers in (("actions", recording.actions), ("states", recording.states)):
            if numbers is not None and not np.isfinite(numbers).all():
                raise UserError(
                    f"{source.path}: --replay: episode {episode}: {what}: expected finite numbers, got nan or inf"
                )
    starts = starts_of(source, env, recorded)
    spread = _spread(recorded)
    rewarded = any(r.rewards.any() for r in recorded.values())  # formats without rewards are read as zeros
    played: list[Replayed] = []
    for episode in episodes.tolist():
        said = None if success_E is None else bool(success_E[episode])
        one = _play(task, env, starts, episode, recorded[episode], spread)
        if said is None and one.success is not None:
            said = _judge(env, recorded[episode])
        was = float(recorded[episode].rewards.sum(dtype=np.float64)) if rewarded else None
        one = dataclasses.replace(one, recorded=said, recorded_return=was)
        if not one.judged and starts.states:
            one = dataclasses.replace(one, step_drift=_single_steps(env, recorded[episode], spread))
        played.append(one)
        if on_episode is not None:
            on_episode(len(played), sum(bool(e.success) for e in played))
    return Replay(task.name, starts.how, tuple(played))


def _recordings(source: Source, wanted: set[int]) -> dict[int, Recording]:
    found: dict[int, Recording] = {}

    def keep(block: Block) -> None:
        for episode, rows in block.episodes():
            if episode in wanted:
                arrays = {k: np.array(v[rows]) for k, v in block.arrays.items() if v.dtype != np.uint8}
                obs = {k.removeprefix("obs/"): v for k, v in arrays.items() if k.startswith("obs/")}
                found[episode] = Recording(arrays["actions"], arrays["rewards"], obs, arrays.get("states"))

    source.scan(keep, ReadOptions(states=True))
    return found


def _spread(recorded: Mapping[int, Recording]) -> dict[str, np.ndarray]:
    """The standard deviation (D,) of each observation; 1 where it does not vary. nan and inf are passed over."""
    found = {}
    for key in next(iter(recorded.values())).obs:
        rows = np.concatenate([r.obs[key] for r in recorded.values()])
        good = rows[np.isfinite(rows).all(axis=1)]
        std = good.std(axis=0, dtype=np.float64) if len(good) else np.ones(rows.shape[1])
        found[key] = np.where(std < 1e-6, 1.0, std)
    return found


def _play(
    task: Task, env: SimEnv, starts: Starts, episode: int, recorded: Recording, spread: Mapping[str, np.ndarray]
) -> Replayed:
    obs = starts.begin(episode)
    known = task.has_success and (starts.seeded or _same_goal(obs, recorded))
    success, rewards, drifts = False, [], []
    for step, action in enumerate(recorded.actions):
        drifts.append(_apart(obs, recorded, step, spread))
        obs, reward, terminated, _, info = env.step(action)
        success = success or bool(info["success"])
        rewards.append(float(reward))
        if terminated:
            break
    return Replayed(
        episode,
        recorded=None,
        success=success if known else None,
        max_reward=max(rewards),
        steps=len(rewards),
        replayed_return=sum(rewards),
        drift=max((x for x in drifts if x is not None), default=None),
    )


def _apart(obs: Obs, recorded: Recording, step: int, spread: Mapping[str, np.ndarray]) -> float | None:
    """How far `obs` are from those recorded at `step`: the observation that is farthest. None: they share none that is
    finite."""
    apart = [
        (obs[key].astype(np.float64) - recorded.obs[key][step]) / std
        for key, std in spread.items()
        if key in obs and obs[key].shape == std.shape and np.isfinite(recorded.obs[key][step]).all()
    ]
    return max((float(np.sqrt((x**2).mean())) for x in apart), default=None)


def _single_steps(env: SimEnv, recorded: Recording, spread: Mapping[str, np.ndarray]) -> float | None:
    """How far single steps from recorded states lead from where they led, in the median of `STEPS` of them."""
    if recorded.states is None or len(recorded.actions) < 2:
        return None
    if not (isinstance(env, Restorable) and env.complete_state):
        return None  # robosuite's controllers and clocks remember more than a state holds
    told = []
    for step in np.unique(np.linspace(0, len(recorded.actions) - 2, STEPS).round().astype(int)).tolist():
        env.start_at(recorded.states[step])
        obs, *_ = env.step(recorded.actions[step])
        told.append(_apart(obs, recorded, step + 1, spread))
    known = [x for x in told if x is not None]
    return float(np.median(known)) if known else None


def _same_goal(obs: Obs, recorded: Recording) -> bool:
    """Whether the goal that is observed, if one is, is the recorded one."""
    for key, value in obs.items():
        if any(part in GOALS for part in key.split("/")):
            was = recorded.obs.get(key)
            if was is None or was.shape[1:] != value.shape or not np.allclose(was[0], value, atol=1e-4):
                return False
    return True


def _judge(env: SimEnv, recorded: Recording) -> bool | None:
    if recorded.states is None or not isinstance(env, Judge):
        return None
    return env.solved_in(recorded.states)
