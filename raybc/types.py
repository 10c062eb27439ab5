"""The values that travel between the stages of the pipeline.

Shape letters, used here and everywhere: B batch, M members of a pack (seeds), T observation steps, O observation
dim, H horizon_length (chunk), A action dim, N transitions, E episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:  # torch is imported by the trainer, not by everyone who needs a type
    from torch import Tensor

Outcome = Literal["success", "failure", "timeout", "error"]
Split = Literal["demos", "search", "final"]

#: First seed of each set of starts. The ranges cannot meet as long as no set is longer than `SPLIT_SIZE`.
SPLIT_SIZE = 1_000_000
SPLIT_BASE: dict[str, int] = {"demos": 0, "search": SPLIT_SIZE, "final": 2 * SPLIT_SIZE}


class UserError(ValueError):
    """A mistake in what the user gave us; the message says expected, got, where and what to do.

    Command lines print it as one line and exit with status 2; it never means a defect of raybc.
    """


Array = TypeVar("Array")


@dataclass(frozen=True)
class Observation(Generic[Array]):
    """What a policy sees: the last T steps, the oldest first, of one or many examples (leading axes `...`).

    Arrays are numpy's outside of networks and PyTorch's inside; physical units outside of networks, normalised inside.
    """

    low_dim: Array
    """float32 (..., T, O): the low-dimensional observations side by side; O = 0 without any."""
    images: Mapping[str, Array] = field(default_factory=dict)
    """Name -> uint8 (..., T, height, width, channels)."""
    instruction: tuple[str, ...] | None = None
    """One text per example, or None (no policy of raybc reads it yet)."""

    def map(self, change: Callable[[Array], Any]) -> Observation[Any]:
        """The same observation with `change` applied to each array."""
        return Observation(
            change(self.low_dim), {name: change(array) for name, array in self.images.items()}, self.instruction
        )


@dataclass(frozen=True)
class Batch:
    """Training examples for M members, normalised."""

    obs: Observation[Tensor]
    """Leading axes (M, B)."""
    actions_MBHA: Tensor
    """float32, normalised chunks."""
    is_pad_MBH: Tensor
    """bool, True where a chunk runs past the end of its episode; such steps carry no loss."""
    rewards_MBH: Tensor | None = None
    """float32, where a learner asks for rewards."""
    next_obs: Observation[Tensor] | None = None
    """The observation after the chunk, where a learner asks for it."""


@dataclass(frozen=True)
class EpisodeSpec:
    """One start of one task. Owned by the harness: the environment counts nothing.

    seed decides the start state *and* the policy's sampling noise, so the result of an episode depends on the spec,
    the policy and the sample setting alone.
    """

    task: str
    split: Split
    index: int

    def __post_init__(self) -> None:
        if self.split not in SPLIT_BASE:
            raise UserError(f"split: expected one of {sorted(SPLIT_BASE)}, got {self.split!r}")
        if not 0 <= self.index < SPLIT_SIZE:
            raise UserError(f"episode index: expected 0..{SPLIT_SIZE - 1}, got {self.index}")

    @property
    def seed(self) -> int:
        return SPLIT_BASE[self.split] + self.index


@dataclass(frozen=True)
class SampleSetting:
    """How actions are drawn from a trained policy; changing it needs no new training."""

    flow_steps: int = 10
    """Euler steps of the flow; 0 for a policy without a flow."""
    execute_steps: int = 0
    """Steps of a chunk that are executed before the next one is sampled (0: the whole chunk)."""
    eval_temperature: float = 0.0
    """Scale of the initial noise (0: zero noise, deterministic)."""
    temporal_ensemble: float = -1.0
    """m >= 0 averages what all chunks so far say about a step, with weights exp(-m i), i = 0 the oldest (Zhao et al.
    2023, ACT, section IV.B; there m = 0.01); a chunk is then sampled every `execute_steps` steps, every step where
    that is 0. -1: off."""

    @property
    def of_network(self) -> SampleSetting:
        """What of it a network sees: the rest is the business of the episode that asks."""
        return replace(self, execute_steps=0, eval_temperature=0.0, temporal_ensemble=-1.0)

    def steps_between(self, horizon: int) -> int:
        """Steps that are executed before the next chunk of `horizon` steps is sampled."""
        return self.execute_steps or (horizon if self.temporal_ensemble < 0 else 1)

    def label(self) -> str:
        """For people: what differs from the defaults, flow_steps always where the policy has them."""
        parts = [f"flow_steps={self.flow_steps}"] if self.flow_steps else []
        parts += [f"execute_steps={self.execute_steps}"] if self.execute_steps else []
        parts += [f"eval_temperature={self.eval_temperature:g}"] if self.eval_temperature else []
        parts += [f"temporal_ensemble={self.temporal_ensemble:g}"] if self.temporal_ensemble >= 0 else []
        return " ".join(parts) or "default sampling"


@dataclass(frozen=True)
class EpisodeResult:
    """What happened in one episode.

    `timeout` means that the task's step limit was reached: the task was not solved, and it counts as such. `error`
    means that the simulator failed even after retries in a fresh process: it is reported and never averaged.
    max_reward: the highest reward of a step (PushT's score). seconds: time of a core that the episode took.
    """

    index: int
    seed: int
    outcome: Outcome
    episode_return: float
    steps: int
    seconds: float
    max_reward: float = 0.0
    retries: int = 0
    message: str = ""

    def to_row(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "seed": self.seed,
            "outcome": self.outcome,
            "return": self.episode_return,
            "max_reward": self.max_reward,
            "steps": self.steps,
            "seconds": round(self.seconds, 4),
            "retries": self.retries,
            "message": self.message,
        }
