"""What an environment of a user does at its first steps, looked at once while its name is resolved."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from raybc.envs import border
from raybc.envs.base import Obs
from raybc.types import UserError

#: Seconds of steps after which an environment that has reported no success so far is taken for one that has none.
PROBE_SECONDS = 5.0
#: Starts that are tried before an environment is refused.
PROBE_STARTS = 5


class Probed(Protocol):
    """What is needed of a `raybc.envs.gym.GymEnv`."""

    success_name: str | None
    belongs_to_gymnasium: bool

    @property
    def action_space(self) -> Any: ...

    def reset(self, *, seed: int | None = None) -> tuple[Obs, dict[str, Any]]: ...

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]: ...


@dataclass(frozen=True)
class Probe:
    """What was found."""

    has_success: bool
    """Whether `info` reports success."""
    notes: tuple[str, ...]
    """What users should know."""


def probe(env: Probed, name: str, max_steps: int, has_success: bool | None) -> Probe:
    """Reset and step an environment called `name`.

    Success is looked for at the first step, and where it is not reported there up to the end of an episode. A start
    that fails is noted, and another one is tried: single starts may fail. has_success: what the user declares; None:
    unknown. Raises `UserError` where all of `PROBE_STARTS` starts fail.
    """
    notes, failed = [], list[UserError]()
    for seed in range(PROBE_STARTS):
        try:
            first, steps = _try(env, name, seed, max_steps, has_success)
            break
        except UserError as error:
            failed.append(error)
    else:
        raise failed[0]
    if failed:
        notes.append(f"{failed[0]}; other starts work, and episodes that fail are errors")
    with border.calling(name, f"reset(seed={seed})"):
        again, _ = env.reset(seed=seed)
    if any(not np.array_equal(first[key], again[key]) for key in first):
        notes.append(
            f"{name}: two resets with the same seed observe different starts, so results cannot be repeated and "
            "policies are not compared on the same starts; reset(seed=...) should seed all random numbers"
        )
    if env.success_name is None and has_success is None and not env.belongs_to_gymnasium:
        notes.append(
            f"{name} reported no success in {steps} steps (looked for {', '.join(border.SUCCESS_NAMES)} in info and "
            f"info['{border.FINAL_INFO}']), so its returns are the measure; if success has another name, set the "
            "attribute success_key of the function that makes it; if it is reported only once the task is solved, set "
            "has_success = True"
        )
    return Probe(has_success=bool(has_success) or env.success_name is not None, notes=tuple(notes))


def _try(env: Probed, name: str, seed: int, max_steps: int, has_success: bool | None) -> tuple[Obs, int]:
    """The first observation of a start, and the number of steps that were enough to look for success."""
    with border.calling(name, f"reset(seed={seed})"):
        first, _ = env.reset(seed=seed)
    action = ((env.action_space.low + env.action_space.high) / 2).astype(np.float32)
    steps, over, deadline = 0, False, time.monotonic() + PROBE_SECONDS
    while not over:
        steps += 1
        with border.calling(name, f"step {steps}" if seed == 0 else f"step {steps} after reset(seed={seed})"):
            *_, terminated, truncated, _ = env.step(action)
        known = env.success_name is not None or has_success is not None or env.belongs_to_gymnasium
        over = known or terminated or truncated or steps >= max_steps or time.monotonic() > deadline
    return first, steps
