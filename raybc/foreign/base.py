"""What a policy of others is to raybc: an object that acts in one episode at a time. Needs numpy only.

Letters: H chunk, A action dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybc.envs.base import SimEnv, Task
from raybc.envs.spec import EnvSpec
from raybc.foreign.reference import Reference
from raybc.inference.predictor import PolicyError, Predictor
from raybc.types import SampleSetting

#: Under this name a policy of others finds the instruction beside its observations.
INSTRUCTION = "instruction"
#: Sampling options that concern the episode, not the policy.
OF_EPISODE = ("execute_steps", "temporal_ensemble")


@dataclass(frozen=True)
class About:
    """What a policy of others learns about where it will act."""

    task: str
    """Name of the task."""
    observations: Mapping[str, tuple[int, ...]]
    """Name -> shape: (size,) of low-dimensional observations (float32), (height, width, channels) of images (uint8)."""
    action_size: int
    """A, the numbers of an action."""
    action_low: tuple[float, ...]
    """Lowest action; lower ones are clipped."""
    action_high: tuple[float, ...]
    """Highest action; higher ones are clipped."""
    instruction: str
    """What the robot is asked to do, in words; "" where there are none."""
    max_steps: int
    """Step limit of an episode."""
    fps: float
    """Actions per second."""
    flow_steps: int = 0
    """The value of --flow_steps, for policies that declare it as a sample axis; 0: not given."""
    argument: str = ""
    """The value of --policy_argument."""

    @classmethod
    def of(cls, task: Task, env: SimEnv, instruction: str, flow_steps: int, argument: str) -> About:
        """About a simulator."""
        low, high = env.action_space.low, env.action_space.high
        shapes = {name: tuple(space.shape or ()) for name, space in env.observation_space.items()}
        ends = tuple(map(float, low)), tuple(map(float, high))
        shown = _ordered(shapes, task)
        return cls(task.name, shown, len(low), *ends, instruction, task.max_steps, task.fps, flow_steps, argument)

    @classmethod
    def of_spec(cls, task: Task, spec: EnvSpec, instruction: str, flow_steps: int, argument: str) -> About:
        """The same from what one simulator reported."""
        shapes: dict[str, tuple[int, ...]] = {name: (size,) for name, size in spec.obs_sizes.items()}
        shapes |= spec.images
        low, high = tuple(map(float, spec.action_low)), tuple(map(float, spec.action_high))
        return cls(
            task.name,
            _ordered(shapes, task),
            spec.action_size,
            low,
            high,
            instruction,
            task.max_steps,
            task.fps,
            flow_steps,
            argument,
        )


def _ordered(shapes: Mapping[str, tuple[int, ...]], task: Task) -> dict[str, tuple[int, ...]]:
    """The observations that the task recommends first, in its order."""
    return {name: shapes[name] for name in dict.fromkeys((*task.obs_keys, *shapes)) if name in shapes}


class ForeignPolicy(ABC):
    """A policy that acts in one episode at a time.

    Everything that goes wrong in it ends the episode as an error: raise `PolicyError`, or any exception. `ask` may
    return before the answer is known, so that simulators step while a server computes.
    """

    batched = False
    """Whether one object acts for all episodes of a process at once, by `act_together`; it must not remember any."""
    sees_every_step = False
    """Whether `ask` is handed the observations of all steps since the last one, not only the newest."""

    def reset(self, seed: int) -> None:  # noqa: B027  (most remember nothing)
        """A new episode. seed: of its start, for policies that draw numbers."""

    def ask(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Ask for the actions that follow these observations, oldest first: name -> array, and `INSTRUCTION`."""
        self._steps = steps

    @abstractmethod
    def answer(self) -> Any:
        """The actions for the observations that `ask` was handed: (A,), or a chunk (H, A)."""

    def act_together(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """The actions for an observation of each of several episodes, where `batched`."""
        raise NotImplementedError

    def end(self, outcome: str) -> None:  # noqa: B027
        """The episode has ended as success, failure, timeout or error."""

    def close(self) -> None:  # noqa: B027
        """The policy is not needed any more."""


class Kind(ABC):
    """A kind of policy of others: one object in each of its modules, `KIND`."""

    options: tuple[str, ...] = ("argument",)
    """Fields of a `Reference` that have an effect."""
    by_rows = False
    """Whether policies of this kind act as a bundle does, by `predictor`; others by `open`."""
    threaded = False
    """Whether objects of this kind may be used by several threads at once, each object by one."""

    @abstractmethod
    def parse(self, reference: Reference) -> Reference:
        """Complete what was typed. Raises `UserError` where there is no such policy: no such file, nobody listening."""

    @abstractmethod
    def content(self, reference: Reference) -> str:
        """What makes two policies of the same name different, e.g. the sha256 of a file."""

    def files(self, reference: Reference) -> tuple[Path, ...]:
        """Files that every machine must see."""
        return ()

    def env_name(self, reference: Reference) -> str:
        """The environment that it was trained for; "" where it does not say."""
        return ""

    def sample_axes(self, reference: Reference) -> tuple[str, ...]:
        """Sampling options that have an effect."""
        return OF_EPISODE

    def setting(self, reference: Reference) -> SampleSetting:
        """How its actions are sampled unless somebody asks for something else."""
        return SampleSetting(flow_steps=0)

    def open(self, reference: Reference, about: About) -> ForeignPolicy:
        """A policy object. Raises `UserError` or `PolicyError` if there cannot be one."""
        raise NotImplementedError

    def predictor(self, reference: Reference, about: About | None) -> Predictor:
        """A `Predictor`, for kinds that act `by_rows`. about: where it will act, if it is to be checked. Raises
        `UserError` if it does not fit."""
        raise NotImplementedError


def as_chunk(value: Any, action_size: int, what: str = "the policy") -> np.ndarray:
    """What a policy answered as a chunk, float32 (H, A). Raises `PolicyError` for anything else, also nan and inf.

    what: who answered, for messages.
    """
    expected = f"expected an action ({action_size},) or a chunk (H, {action_size}) of finite numbers"
    try:
        found = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise PolicyError(f"{what}: {expected}, got no array: {error}") from None
    if found.dtype.kind not in "uif":
        raise PolicyError(f"{what}: {expected}, got {type(value).__name__} of {found.dtype}")
    if found.ndim == 1:
        found = found[None]
    if found.ndim != 2 or found.shape[1] != action_size or not len(found):
        raise PolicyError(f"{what}: {expected}, got the shape {np.shape(value)}")
    with np.errstate(over="ignore"):
        chunk_HA = found.astype(np.float32)
    if not np.isfinite(chunk_HA).all():
        raise PolicyError(f"{what}: {expected}, got nan or inf")
    return chunk_HA
