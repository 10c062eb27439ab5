"""How a recorded episode is begun again: at its seed, in its state, or where its first observation says.

Letters: T steps, S numbers of a state, D of an observation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.data.formats import base, minari, robomimic
from raybc.data.scan import Source
from raybc.envs.base import Obs, Observed, Restorable, SimEnv
from raybc.types import UserError

#: What an array of an npz file with the start of each episode is called, for `start_at`.
STARTS = "seed_state"
#: How far a number may be from the recorded one after a reset to the recorded seed. Versions that differ draw anew.
SAME = 1e-3


@dataclass(frozen=True)
class Recording:
    """One episode. actions (T, A), rewards (T,), obs: name -> numbers (T, D), states (T, S) or None."""

    actions: np.ndarray
    rewards: np.ndarray
    obs: Mapping[str, np.ndarray]
    states: np.ndarray | None


@dataclass(frozen=True)
class Starts:
    """how: for people. begin: starts an episode by its number and gives the first observation. seeded: whether that is
    a reset, which sets the goal as it was, too. states: whether the recorded states are such that `start_at` takes."""

    how: str
    begin: Callable[[int], Obs]
    seeded: bool = False
    states: bool = False


def starts_of(source: Source, env: SimEnv, recorded: Mapping[int, Recording]) -> Starts:
    """How the episodes of `recorded` begin, by the best that the data hold.

    Raises `UserError` where nothing says it, or where the adapter cannot be set to a state.
    """
    path = source.path
    if source.format == robomimic.NAME:
        seeds = robomimic.recorded_seeds(path)
        if seeds is not None:
            return Starts("the recorded seed", lambda episode: env.reset(seed=seeds[episode])[0], seeded=True)
    resets = minari.recorded_resets(path) if source.format == minari.NAME else []
    if resets and all(resets[e].options for e in recorded):
        return _reset(source, env, recorded, resets, "the recorded reset")
    states = {e: r.states[0] for e, r in recorded.items() if r.states is not None}
    if states:
        return dataclasses.replace(_state(source, env, states, "the recorded state"), states=True)
    if resets and all(resets[e].seed is not None for e in recorded):
        return _reset(source, env, recorded, resets, "the recorded seed")
    states = _npz(path, set(recorded))
    if states:
        return _state(source, env, states, f"the recorded {STARTS}")
    if isinstance(env, Observed):
        told = {e: env.state_of({k: v[0] for k, v in r.obs.items()}) for e, r in recorded.items()}
        states = {e: state for e, state in told.items() if state is not None}
        if len(states) == len(told):
            return _state(source, env, states, "the first observation, at rest")
    raise UserError(
        f"{path}: --replay: nothing says how an episode began: expected states of the simulator, seeds of raybc.demos "
        f"or Minari, an array {STARTS} beside episode_ends, or observations that tell the state "
        f"(got {', '.join(sorted(next(iter(recorded.values())).obs)) or 'no numbers'})"
    )


def _state(source: Source, env: SimEnv, states: Mapping[int, np.ndarray], how: str) -> Starts:
    if not isinstance(env, Restorable):
        raise UserError(
            f"{source.path}: --replay: this adapter ({type(env).__name__}) cannot begin in a recorded state"
        )
    at = env.start_at

    def begin(episode: int) -> Obs:
        try:
            return at(states[episode])
        except UserError as error:
            raise UserError(f"{source.path}: --replay: episode {episode}: {error}") from None

    return Starts(how, begin)


def _reset(
    source: Source, env: SimEnv, recorded: Mapping[int, Recording], resets: list[minari.Reset], how: str
) -> Starts:
    """By `reset`, which must lead to the recorded observation: another version may draw other numbers."""

    def begin(episode: int) -> Obs:
        obs, _ = env.reset(seed=resets[episode].seed, options=resets[episode].options or None)
        for key, value in obs.items():
            was = recorded[episode].obs.get(key)
            if was is None or was.shape[1:] != value.shape:
                continue
            far = float(np.abs(was[0] - value).max(initial=0))
            if far > SAME * (1 + float(np.abs(was[0]).max(initial=0))):
                raise UserError(
                    f"{source.path}: --replay: episode {episode}: expected that a reset to {how} leads to the recorded "
                    f"observation, got {key} that differs by {far:.3g}: another version, or another task than recorded"
                )
        return obs

    return Starts(how, begin, seeded=True)


def _npz(path: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """The starts that an npz file with `episode_ends` holds beside its rows, if it does."""
    if STARTS not in base.npz_names(path):
        return {}
    starts = base.Npz(path)[STARTS]
    return {episode: starts[episode] for episode in wanted if episode < len(starts)}
