"""Replaying recorded actions: do episodes in the installed simulator take the course that was recorded?

Compared is whatever data and task define: success; returns (where the task has no success, or the data do not mark it);
and observations, which remain where the data have neither, as OGBench's.

Contacts are chaotic: D4RL's states are rounded to float32, and episodes that start from them diverge after some hundred
steps, even with the simulator and the actions of the recording. So where states are recorded at every step, single
steps are replayed as well, each from its recorded state. They distinguish the cases: 1e-7 standard deviations from the
recording if all is well, 0.2 to 1.3 with negated actions. Letters: E episodes, T steps, A action dim, D observation
dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from raybc.data.formats import robomimic, robosuite
from raybc.data.formats.base import ReadOptions
from raybc.data.idle import commands, idle_steps
from raybc.data.scan import Block, Source
from raybc.data.starts import Recording, Starts, starts_of
from raybc.envs import d4rl, libero, metaworld, ocbench, ogbench
from raybc.envs.base import Judge, Obs, Restorable, SimEnv, Task
from raybc.envs.border import calling, reward_of
from raybc.envs.gym import GYM_TYPE, PREFIX, of_data
from raybc.envs.robosuite import ROBOSUITE_TYPE
from raybc.registry import TASKS, get_task
from raybc.types import UserError

#: Relative difference of returns above which an episode differs from the recording.
RETURN_TOLERANCE = 0.05
#: The same for observations, in standard deviations, where neither success nor returns are known.
DRIFT_TOLERANCE = 0.5
#: The same for observations after a single step from a recorded state (median over the steps of an episode).
STEP_TOLERANCE = 0.05
#: Number of single steps of an episode.
SINGLE_STEPS = 50
#: Names of observations that are a goal. Success cannot be compared where the recorded goal differs or is not recorded.
GOALS = ("goal", "desired_goal")


@dataclass(frozen=True)
class Replayed:
    """One replayed episode."""

    episode: int
    """Its number in the data set."""
    recorded: bool | None
    """Whether it succeeded when it was recorded; None where success is not known."""
    success: bool | None
    """Whether it succeeded here, at any step; None where the task has no success or another goal than the recording."""
    max_reward: float
    """The highest reward of a step (PushT's score)."""
    steps: int
    """Number of recorded actions that were replayed."""
    recorded_return: float | None = None
    """Sum of the recorded rewards; None where the data have none."""
    replayed_return: float = 0.0
    """Sum of the rewards here."""
    drift: float | None = None
    """The largest distance of an observation from the recorded one: root mean square over its dimensions, in standard
    deviations of the data. None where data and environment share no observation."""
    step_drift: float | None = None
    """The same after single steps from recorded states, median. None without states, and where success is compared."""
    success_without_idle: bool | None = None
    """Whether it also succeeds without its idle steps (`raybc.data.idle`). None where it has none, or does not succeed
    here."""

    @property
    def judged(self) -> bool:
        """Whether success can be compared. It says nothing about an episode that failed and fails again."""
        return self.recorded is not None and self.success is not None and (self.recorded or self.success)


@dataclass(frozen=True)
class Replay:
    """All replayed episodes of a data set."""

    task: str
    """The task they were replayed in."""
    start: str
    """How the episodes were started, such as "the recorded seed"."""
    episodes: tuple[Replayed, ...]
    """In the order in which they were replayed."""

    @property
    def successes(self) -> int | None:
        """Number of successes here; None where success is known for no episode."""
        known = [e.success for e in self.episodes if e.success is not None]
        return sum(known) if known else None

    @property
    def mean_max_reward(self) -> float:
        """Mean of `Replayed.max_reward`."""
        return fmean(e.max_reward for e in self.episodes)

    @property
    def returns(self) -> tuple[float, float] | None:
        """The mean return when recorded and here; None where the data have no rewards."""
        known = [(e.recorded_return, e.replayed_return) for e in self.episodes if e.recorded_return is not None]
        return (fmean(r for r, _ in known), fmean(r for _, r in known)) if known else None

    @property
    def return_difference(self) -> float | None:
        """Difference of the mean returns, relative to the recorded one; None where that is missing or 0."""
        means = self.returns
        return None if means is None or means[0] == 0 else (means[1] - means[0]) / abs(means[0])

    @property
    def drifts(self) -> tuple[float, float] | None:
        """`Replayed.drift` of the median and of the worst episode."""
        return _median_and_worst(e.drift for e in self.episodes)

    @property
    def step_drifts(self) -> tuple[float, float] | None:
        """`Replayed.step_drift` of the median and of the worst episode."""
        return _median_and_worst(e.step_drift for e in self.episodes)

    def as_json(self) -> dict[str, object]:
        """What `verify --json` prints under "replay"."""
        names = ("successes", "mean_max_reward", "returns", "return_difference", "drifts", "step_drifts")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in names}

    def lost(self) -> tuple[int, ...]:
        """Episodes that succeeded when they were recorded and do not succeed here."""
        return tuple(e.episode for e in self.episodes if e.recorded and e.success is False)

    def needing_pauses(self) -> tuple[int, ...]:
        """Episodes that succeed here, but not without their idle steps."""
        return tuple(e.episode for e in self.episodes if e.success_without_idle is False)

    def elsewhere(self) -> tuple[int, ...]:
        """Episodes whose single steps lead elsewhere, where success cannot be compared."""
        return self._where(lambda e: e.step_drift is not None and e.step_drift > STEP_TOLERANCE)

    def other_returns(self) -> tuple[int, ...]:
        """Episodes whose returns differ, where nothing else shows that they went well."""
        return self._where(lambda e: e.step_drift is None and e.success is not True and _other_return(e))

    def drifted(self) -> tuple[int, ...]:
        """Episodes whose observations drift away, where nothing else can be compared."""
        return self._where(
            lambda e: e.step_drift is None and e.recorded_return is None and (e.drift or 0) > DRIFT_TOLERANCE
        )

    def _where(self, odd: Callable[[Replayed], bool]) -> tuple[int, ...]:
        return tuple(e.episode for e in self.episodes if not e.judged and odd(e))


def _median_and_worst(values: Iterable[float | None]) -> tuple[float, float] | None:
    known = [x for x in values if x is not None]
    return (median(known), max(known)) if known else None


def _other_return(episode: Replayed) -> bool:
    was = episode.recorded_return
    return was is not None and abs(episode.replayed_return - was) > RETURN_TOLERANCE * max(abs(was), 1e-6)


def task_of_data(source: Source, env_args: Mapping[str, Any]) -> Task:
    """The task to replay a data set in: that of `source`, else the one that `env_args` (robomimic's layout) name.

    Raises `UserError` where neither names a known environment.
    """
    if source.task:
        return get_task(source.task)
    name, kind = str(env_args.get("env_name", "")), env_args.get("type")
    if source.format in (robomimic.NAME, robosuite.NAME) and kind == ROBOSUITE_TYPE:
        return get_task(f"dataset:{source.path}")
    if name.lower() in TASKS:
        return get_task(name.lower())
    # Recorded by raybc.demos (type 2, as in robomimic) or Minari (no type). Never a module: data sets run no code.
    kwargs = env_args.get("env_kwargs")
    found = _task_named(name) if kind == GYM_TYPE else None
    if found is None and name and kind in (None, GYM_TYPE):
        found = of_data(name.removeprefix(PREFIX), kwargs if isinstance(kwargs, Mapping) else {})
    if found is not None:
        return found
    raise UserError(
        f"{source.path}: --replay: the data name no known environment (env_args: {name or 'none'}); name the task "
        "with --env_name"
    )


def _task_named(name: str) -> Task | None:
    known = any(family.task(name) is not None for family in (d4rl, ogbench, metaworld, libero, ocbench))
    return get_task(name) if known else None  # whose simulators are made in its environment


def replay(
    source: Source,
    task: Task,
    env: SimEnv,
    episodes: np.ndarray,
    success_E: np.ndarray | None,
    on_episode: Callable[[int, int], None] | None = None,
) -> Replay:
    """Replay the recorded actions of `episodes` (numbers, int64) in `env`, a simulator of `task`.

    success_E: whether each episode of the data set succeeded when it was recorded, bool (E,). on_episode: called with
    the number of replayed episodes and of successes. Raises `UserError` where the data do not contain how an episode
    began, and for actions or states that are not finite.
    """
    recorded = _recordings(source, set(episodes.tolist()))
    size = recorded[int(episodes[0])].actions.shape[1:]
    if env.action_space.shape != size:
        raise UserError(
            f"{source.path}: --replay: expected actions of {task.name}, {env.action_space.shape}, got {size}; name the "
            "task that the data were recorded in with --env_name"
        )
    for episode, recording in recorded.items():
        for what, values in (("actions", recording.actions), ("states", recording.states)):
            if values is not None and not np.isfinite(values).all():
                raise UserError(
                    f"{source.path}: --replay: episode {episode}: {what}: expected finite numbers, got nan or inf"
                )
    starts = starts_of(source, env, recorded)
    spread = _spread(recorded)
    rewarded = any(r.rewards.any() for r in recorded.values())  # formats without rewards are read as zeros
    held = commands(np.concatenate([r.actions for r in recorded.values()]))
    played: list[Replayed] = []
    for episode in episodes.tolist():
        succeeded = None if success_E is None else bool(success_E[episode])
        with calling(task.name, f"replaying episode {episode}", "the data were not replayed further"):
            one = _play(task, env, starts, episode, recorded[episode], spread)
        if one.success:
            with calling(task.name, f"replaying episode {episode}", "the data were not replayed further"):
                one = dataclasses.replace(one, success_without_idle=_without_idle(env, starts, episode, recorded, held))
        if succeeded is None and one.success is not None:
            succeeded = _judge(env, recorded[episode])
        was = float(recorded[episode].rewards.sum(dtype=np.float64)) if rewarded else None
        one = dataclasses.replace(one, recorded=succeeded, recorded_return=was)
        if not one.judged and starts.states:
            with calling(task.name, f"replaying steps of episode {episode}", "the data were not replayed further"):
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
    """The standard deviation (D,) of each observation; 1 where it does not vary. Rows with nan and inf are ignored."""
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
        drifts.append(_distance(obs, recorded, step, spread))
        obs, reward, terminated, truncated, info = env.step(action)
        success = success or bool(info["success"])
        rewards.append(reward_of(reward))
        if terminated or truncated:
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


def _without_idle(
    env: SimEnv, starts: Starts, episode: int, recorded: Mapping[int, Recording], held_A: np.ndarray
) -> bool | None:
    """`Replayed.success_without_idle`."""
    actions = recorded[episode].actions
    idle = idle_steps(actions, np.array([len(actions)]), held_A)
    if not idle.any():
        return None
    starts.begin(episode)
    for action in actions[~idle]:
        _, _, terminated, truncated, info = env.step(action)
        if info["success"]:
            return True
        if terminated or truncated:
            return False
    return False


def _distance(obs: Obs, recorded: Recording, step: int, spread: Mapping[str, np.ndarray]) -> float | None:
    """The largest distance of an observation from that recorded at `step`, as `Replayed.drift`; None where they share
    no finite one."""
    distances = [
        (obs[key].astype(np.float64) - recorded.obs[key][step]) / std
        for key, std in spread.items()
        if key in obs and obs[key].shape == std.shape and np.isfinite(recorded.obs[key][step]).all()
    ]
    return max((float(np.sqrt((x**2).mean())) for x in distances), default=None)


def _single_steps(env: SimEnv, recorded: Recording, spread: Mapping[str, np.ndarray]) -> float | None:
    """`Replayed.step_drift`, of `SINGLE_STEPS` steps."""
    if recorded.states is None or len(recorded.actions) < 2:
        return None
    if not (isinstance(env, Restorable) and env.complete_state):
        return None  # robosuite's controllers and clocks hold more than a state
    distances = []
    for step in np.unique(np.linspace(0, len(recorded.actions) - 2, SINGLE_STEPS).round().astype(int)).tolist():
        env.start_at(recorded.states[step])
        obs, *_ = env.step(recorded.actions[step])
        distances.append(_distance(obs, recorded, step + 1, spread))
    known = [x for x in distances if x is not None]
    return float(np.median(known)) if known else None


def _same_goal(obs: Obs, recorded: Recording) -> bool:
    """Whether the observed goal, if any, is the recorded one."""
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
