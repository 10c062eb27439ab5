"""Starting a simulator where a recorded episode began: by its seed, its state, or its first observation.

Letters: T steps, A action dim, S state dim, D observation dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.data import npz
from raybc.data.formats import libero, minari, robomimic, robosuite
from raybc.data.scan import Source
from raybc.envs.base import Obs, Observed, Restorable, SimEnv
from raybc.types import UserError

#: Name of the array (E, S) of an npz file with the first state of each episode.
STARTS = "seed_state"
#: Relative difference from the recorded observation that is allowed after a reset to the recorded seed: other versions
#: of a simulator draw other starts.
RESET_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Recording:
    """One recorded episode."""

    actions: np.ndarray
    """float32 (T, A)."""
    rewards: np.ndarray
    """float32 (T,)."""
    obs: Mapping[str, np.ndarray]
    """Low-dimensional observation -> float32 (T, D)."""
    states: np.ndarray | None
    """float64 (T, S), or None where the data contain none."""


@dataclass(frozen=True)
class Starts:
    """How episodes are started."""

    how: str
    """Description for reports, such as "the recorded seed"."""
    begin: Callable[[int], Obs]
    """Starts the episode of a number and returns its first observation. Raises `UserError` where that fails."""
    seeded: bool = False
    """Whether it is started by a reset, which also restores the goal."""
    states: bool = False
    """Whether `Recording.states` are states for `start_at`."""


def starts_of(source: Source, env: SimEnv, recorded: Mapping[int, Recording]) -> Starts:
    """How to start the episodes of `recorded`, by the most exact information in the data.

    Raises `UserError` where the data contain none, or where the adapter cannot be reset to a state.
    """
    path = source.path
    if source.format in (robomimic.NAME, libero.NAME):
        seeds = (libero if source.format == libero.NAME else robomimic).recorded_seeds(path)
        if seeds is not None:
            return Starts("the recorded seed", lambda episode: env.reset(seed=seeds[episode])[0], seeded=True)
    resets = minari.recorded_resets(path) if source.format == minari.NAME else []
    if resets and all(resets[e].options for e in recorded):
        return _reset(source, env, recorded, resets, "the recorded reset")
    states = {e: r.states[0] for e, r in recorded.items() if r.states is not None}
    if states:
        return dataclasses.replace(_state(source, env, states, "the recorded state"), states=True)
    if source.format in (robomimic.NAME, libero.NAME, robosuite.NAME):
        states = robomimic.first_states(path, recorded)
        if len(states) == len(recorded):
            return _state(source, env, states, "the recorded first state")
    if resets and all(resets[e].seed is not None for e in recorded):
        return _reset(source, env, recorded, resets, "the recorded seed")
    states = _npz(path, set(recorded))
    if states:
        return _state(source, env, states, f"the recorded {STARTS}")
    if isinstance(env, Observed):
        computed = {e: env.state_of({k: v[0] for k, v in r.obs.items()}) for e, r in recorded.items()}
        states = {e: state for e, state in computed.items() if state is not None}
        if len(states) == len(computed):
            return _state(source, env, states, "the first observation, at rest")
    raise UserError(
        f"{path}: --replay: the data do not contain how an episode began: expected states of the simulator, seeds of "
        f"raybc.demos or Minari, an array {STARTS} next to episode_ends, or observations that determine the state "
        f"(got {', '.join(sorted(next(iter(recorded.values())).obs)) or 'images only'})"
    )


def _state(source: Source, env: SimEnv, states: Mapping[int, np.ndarray], how: str) -> Starts:
    if not isinstance(env, Restorable):
        raise UserError(
            f"{source.path}: --replay: this adapter ({type(env).__name__}) cannot start from a recorded state"
        )
    start_at = env.start_at

    def begin(episode: int) -> Obs:
        try:
            return start_at(states[episode])
        except UserError as error:
            raise UserError(f"{source.path}: --replay: episode {episode}: {error}") from None

    return Starts(how, begin)


def _reset(
    source: Source, env: SimEnv, recorded: Mapping[int, Recording], resets: list[minari.Reset], how: str
) -> Starts:
    """By `reset`, which has to lead to the recorded observation: other versions may draw other starts."""

    def begin(episode: int) -> Obs:
        obs, _ = env.reset(seed=resets[episode].seed, options=resets[episode].options or None)
        for key, value in obs.items():
            was = recorded[episode].obs.get(key)
            if was is None or was.shape[1:] != value.shape:
                continue
            far = float(np.abs(was[0] - value).max(initial=0))
            if far > RESET_TOLERANCE * (1 + float(np.abs(was[0]).max(initial=0))):
                raise UserError(
                    f"{source.path}: --replay: episode {episode}: expected that a reset to {how} leads to the recorded "
                    f"observation, got {key} that differs by {far:.3g}: another version, or another task"
                )
        return obs

    return Starts(how, begin, seeded=True)


def _npz(path: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """Episode -> its first state (S,), where `path` is an npz file with an array `STARTS`."""
    if STARTS not in npz.npz_names(path):
        return {}
    starts = npz.Npz(path)[STARTS]
    return {episode: starts[episode] for episode in wanted if episode < len(starts)}
