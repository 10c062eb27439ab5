"""Whether actions have the units of an environment, by what they did: how far a unit of action moved each observation
in the data, and how far the same actions move it in the environment.

Actions in metres where an environment takes -1 to 1 lie inside its range, train well and solve nothing. The range alone
cannot tell them from slow demonstrations; the distances that they moved can. Letters: T steps, A action dim, D
dimensions of observations.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raybc.data import formats, units
from raybc.data.adapt import added
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base
from raybc.data.formats.base import ReadOptions
from raybc.data.load import step_limit_of
from raybc.data.normalize import Normalizer
from raybc.data.scan import Source
from raybc.envs.base import SimEnv, Task
from raybc.envs.robosuite_control import is_absolute
from raybc.envs.spec import EnvSpec
from raybc.types import UserError

#: Episodes, and steps of each, that are played.
EPISODES, STEPS = 4, 40
#: Steps whose actions and distances are added up: controllers follow an action over some steps.
WINDOW = 8
#: Share of the variance of an observation's steps that the actions have to explain, in the data and here.
EXPLAINED = 0.8
#: Share of the action range that actions span when they are played a second time.
PLAYED = 0.5
#: Size of a standardised slope from which on an action is taken to move an observation.
STRENGTH = 0.5
#: Ratio of distances from which on the units differ.
OTHER_UNITS = 1.5
#: Share of a range below which an action dimension barely uses it, and above which another one does.
USED = (0.1, 0.7)
#: Share of the action range that most episodes span in a dimension: below the first, and above the second, units may
#: differ.
USUAL_SPAN = (0.6, 1.2)


@dataclass(frozen=True)
class Recorded:
    """The beginning of an episode."""

    actions: np.ndarray
    """float32 (T, A)."""
    obs: Mapping[str, np.ndarray]
    """Low-dimensional observation -> float32 (T, size)."""


@dataclass(frozen=True)
class Gain:
    """How far an action dimension moves an observation."""

    action: int
    """The action dimension."""
    key: str
    """The observation, with its dimension ("robot0_eef_pos[0]")."""
    recorded: float
    """Distance in a step for each unit of action, in the data."""
    here: float
    """The same in the environment."""
    two_ends: bool = False
    """Whether the recorded actions are the ends of the range alone, such as a gripper's open and closed."""

    @property
    def ratio(self) -> float:
        """Recorded distance, in units of that in the environment."""
        return self.recorded / self.here

    @property
    def fits(self) -> bool:
        """Whether the units agree. The ends of a range have none: how far fingers close depends on what is between
        them. Only the sign can differ."""
        if self.two_ends:
            return self.ratio > 0
        return 1 / OTHER_UNITS < self.ratio < OTHER_UNITS

    def __str__(self) -> str:
        return (
            f"a unit of action {self.action} moved {self.key} by {self.recorded:.3g} a step, in the environment by "
            f"{self.here:.3g}"
        )


def recorded_in(store: EpisodeStore) -> list[Recorded]:
    """The beginnings of some episodes, evenly spaced."""
    chosen = np.unique(np.linspace(0, store.num_episodes - 1, EPISODES).round().astype(int))
    found = []
    for episode in chosen.tolist():
        start, end = int(store.episode_starts[episode]), int(store.episode_ends[episode])
        rows = slice(start, min(end, start + STEPS))
        obs = {k: np.asarray(v[rows]) for k, v in store.obs.items() if k not in store.images}
        found.append(Recorded(np.asarray(store.actions_NA[rows]), obs))
    return found


def first_of(source: Source) -> list[Recorded]:
    """The beginnings of the first episodes of a data set; fewer, or none, where it cannot be read, which is reported
    elsewhere."""
    found: list[Recorded] = []
    wanted = ReadOptions(
        step_limit=step_limit_of(source.task, source.format), skip_bad_episodes=False, keys=source.keys
    )
    with contextlib.suppress(UserError):
        for part in base.parts_of(formats.get(source.format), source.path, wanted):
            ends = np.cumsum(part.lengths or (len(part.actions),))
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                rows = slice(int(start), min(int(end), int(start) + STEPS))
                obs = {k: np.asarray(v[rows], np.float32) for k, v in part.obs.items() if v.ndim == 2}
                found.append(Recorded(np.asarray(part.actions[rows], np.float32), obs | added(obs, source.task)))
                if len(found) == EPISODES:
                    return found
    return found


def gains(recordings: Iterable[Recorded], env: SimEnv) -> list[Gain]:
    """For each action dimension the observation that it moves most clearly, in the data and here; dimensions without a
    clear one are left out.

    The recorded actions are played from starts of the environment, once as they are and once, in each dimension, times
    what makes them span the same share of the range: what small ones do would drown in what others do.
    """
    low_A, high_A = env.action_space.low, env.action_space.high
    fitting = [r for r in recordings if r.actions.shape[1:] == env.action_space.shape and np.isfinite(r.actions).all()]
    found: dict[int, tuple[float, Gain]] = {}
    for factor_A in (np.ones(low_A.shape, np.float32), _factors([r.actions for r in fitting], low_A, high_A)):
        for strength, gain in _gains(fitting, env, factor_A):
            if gain.action not in found or strength > found[gain.action][0]:
                found[gain.action] = strength, gain
    two_ends_A = [
        all(np.isin(r.actions[:, a], (low_A[a], high_A[a])).all() for r in fitting) for a in range(len(low_A))
    ]
    return [dataclasses.replace(found[a][1], two_ends=two_ends_A[a]) for a in sorted(found)]


def _gains(recordings: Sequence[Recorded], env: SimEnv, factor_A: np.ndarray) -> list[tuple[float, Gain]]:
    """(strength, gain) with actions that are played times `factor_A`."""
    steps: list[tuple[np.ndarray, ...]] = []
    keys: list[str] = []
    low_A, high_A = env.action_space.low, env.action_space.high
    for seed, recording in enumerate(recordings):
        scaled = np.clip(recording.actions * factor_A, low_A, high_A)
        played, shared = _played(recording, scaled, env, seed)
        names = [f"{key}[{d}]" for key in shared for d in range(recording.obs[key].shape[1])]
        if not names or (keys and names != keys) or not len(played):
            continue
        keys = names
        was = np.diff(np.concatenate([recording.obs[key] for key in shared], axis=1)[: len(played) + 1], axis=0)
        rows = min(len(was), len(played))
        if rows >= WINDOW and np.isfinite(was).all():
            actions = np.clip(recording.actions[:rows], low_A, high_A)
            steps.append(tuple(map(_sums, (actions, was[:rows], scaled[:rows], played[:rows]))))
    if not steps:
        return []
    actions_TA, was_TD, scaled_TA, here_TD = (np.concatenate(column) for column in zip(*steps, strict=True))
    recorded, here = _slopes(actions_TA, was_TD), _slopes(scaled_TA, here_TD)
    found = []
    for a in range(actions_TA.shape[1]):
        strength_D = np.minimum(np.abs(recorded[1][a]), np.abs(here[1][a]))
        d = int(strength_D.argmax())
        if strength_D[d] >= STRENGTH:
            gain = Gain(a, keys[d], float(recorded[0][a, d]), float(here[0][a, d]))
            found.append((float(strength_D[d]), gain))
    return found


def _factors(actions: Sequence[np.ndarray], low_A: np.ndarray, high_A: np.ndarray) -> np.ndarray:
    """float32 (A,): what makes actions span the share `PLAYED` of a range around 0; 1 for other ranges."""
    if not actions:
        return np.ones(low_A.shape, np.float32)
    largest_A = np.abs(np.concatenate(actions)).max(axis=0)
    around = (low_A < 0) & (high_A > 0) & (largest_A > 1e-9)
    return np.where(around, PLAYED * np.minimum(-low_A, high_A) / np.maximum(largest_A, 1e-9), 1).astype(np.float32)


def _played(recording: Recorded, actions_TA: np.ndarray, env: SimEnv, seed: int) -> tuple[np.ndarray, list[str]]:
    """The steps (T, D) of the shared low-dimensional observations under some actions, and their names."""
    obs, _ = env.reset(seed=seed)
    shared = [k for k, v in recording.obs.items() if k in obs and obs[k].ndim == 1 and obs[k].shape == v.shape[1:]]
    before, rows = obs, []
    for action in actions_TA:
        obs, _, terminated, truncated, _ = env.step(action)
        rows.append(np.concatenate([obs[k] - before[k] for k in shared] or [np.zeros(0)]))
        before = obs
        if terminated or truncated:
            break
    return np.stack(rows) if rows else np.zeros((0, 0)), shared


def _sums(rows_TD: np.ndarray) -> np.ndarray:
    """The sums of `WINDOW` rows each, float64 (T - WINDOW + 1, D)."""
    return np.lib.stride_tricks.sliding_window_view(rows_TD.astype(np.float64), WINDOW, axis=0).sum(-1)


def _slopes(actions_TA: np.ndarray, steps_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (A, D) of a linear regression of steps on actions, and the same standardised; the latter are 0 where too
    little is explained."""
    centred, steps = actions_TA - actions_TA.mean(0), steps_TD - steps_TD.mean(0)
    slopes_AD = np.linalg.lstsq(centred, steps, rcond=None)[0]
    total = (steps**2).sum(0)
    left = ((steps - centred @ slopes_AD) ** 2).sum(0)
    explained = np.where(total > 1e-16, 1 - left / np.maximum(total, 1e-16), 0)
    spread = centred.std(0)[:, None] / np.maximum(steps.std(0), 1e-12)
    return slopes_AD, np.where(explained >= EXPLAINED, slopes_AD * spread, 0)


def suspicious(low_A: np.ndarray, high_A: np.ndarray, space_low_A: np.ndarray, space_high_A: np.ndarray) -> bool:
    """Whether usual actions, `low_A` to `high_A`, span little of the action range in some dimension, or exceed it."""
    span_A = (high_A - low_A) / (space_high_A - space_low_A)
    return bool(((span_A < USUAL_SPAN[0]) | (span_A > USUAL_SPAN[1])).any())


def barely_used(low_A: np.ndarray, high_A: np.ndarray, space_low_A: np.ndarray, space_high_A: np.ndarray) -> list[int]:
    """Dimensions whose actions, all from `low_A` to `high_A`, span little of a range that others use: slow
    demonstrations, or other units."""
    span_A = (high_A - low_A) / (space_high_A - space_low_A)
    if not (span_A > USED[1]).any():
        return []
    return np.flatnonzero((span_A > 0) & (span_A < USED[0])).tolist()


def text_of(found: Sequence[Gain]) -> str:
    """What differs, for messages."""
    worst = max(found, key=lambda gain: abs(np.log(abs(gain.ratio))) if gain.ratio > 0 else np.inf)
    dims = ", ".join(f"{gain.action} by {gain.ratio:.3g}" for gain in found)
    return f"dimensions {dims}: {worst}"


def refuse_other_units(store: EpisodeStore, task: Task, probe: EnvSpec) -> list[str]:
    """Raise `UserError` for data whose actions move observations by other distances than in the environment; return
    notes about actions that may have other units.

    The simulator is built and played only where the range of actions is suspicious. probe: of the task.
    """
    low_A, high_A = probe.action_low, probe.action_high
    if not np.isfinite(high_A - low_A).all() or is_absolute(probe.env_args):  # poses move nothing by a distance
        return []
    lowest = np.minimum.reduceat(store.actions_NA, store.episode_starts)
    highest = np.maximum.reduceat(store.actions_NA, store.episode_starts)
    usual = np.median(lowest, axis=0), np.median(highest, axis=0)
    if not suspicious(*usual, low_A, high_A):
        return []
    with contextlib.closing(task.make(None)) as env:
        found = gains(recorded_in(store), env)
    other = [gain for gain in found if not gain.fits]
    if other:
        raise UserError(
            f"{store.source}: actions: expected the units of environment {task.name!r}, got others in "
            f"{text_of(other)}; convert the actions, since a policy trained on these would solve nothing (if they are "
            "in metres and radians: raybc data convert FILE --action_units physical --out CONVERTED)"
        )
    low, high = lowest.min(axis=0), highest.max(axis=0)
    shown = {gain.action for gain in found}
    barely = [a for a in barely_used(low, high, low_A, high_A) if a not in shown]
    return [
        f"actions[{a}] are {low[a]:g} to {high[a]:g}, where {task.name} takes {low_A[a]:g} to {high_A[a]:g}: slow "
        "demonstrations, or other units"
        for a in barely
    ]


def far_starts_of(store: EpisodeStore, probe: EnvSpec, keys: Sequence[str]) -> list[str]:
    """Notes about single dimensions of observations whose starts are far from all of the data."""
    notes = []
    for key in keys:
        values, starts = store.obs.get(key), probe.starts.get(key)
        if values is None or starts is None or values.ndim != 2 or values.shape[1] != starts.shape[1]:
            continue
        size = values.shape[1]
        low, high = values.min(axis=0), values.max(axis=0)
        used = Normalizer.fit(values, "mean_std").with_floor(low, high, ["mean_std"] * size, [size])
        for d, distance in units.far_dimensions(starts, used.offset, used.scale):
            notes.append(
                f"{key}[{d}] is {starts[0, d]:g} at a start, {distance:.0f} scales from the data ({low[d]:g} to "
                f"{high[d]:g}): a policy trained on them never saw this"
            )
    return notes
