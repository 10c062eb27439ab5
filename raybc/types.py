"""The values that travel between the stages of the pipeline.

Shape letters, used here and everywhere: B batch, M members of a pack (seeds), T observation steps, O observation
dim, H horizon_length (chunk), A action dim, N transitions, E episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

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


@dataclass(frozen=True)
class Batch:
    """Training examples for M members.

    obs_MBO: float32, normalised; O counts all obs_steps, the oldest first. actions_MBHA: float32, normalised.
    is_pad_MBH: bool, True where the chunk runs past the end of its episode (such steps carry no loss). images: name
    -> uint8 (M, B, T, height, width, channels), the oldest of T first.
    """

    obs_MBO: Tensor
    actions_MBHA: Tensor
    is_pad_MBH: Tensor
    images: Mapping[str, Tensor] = field(default_factory=dict)


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
    """How actions are drawn from a trained policy; changing it needs no new training.

    flow_steps: Euler steps of the flow. execute_steps: steps of a chunk that are executed before the next is sampled
    (0 = the whole chunk). eval_temperature: scale of the initial noise (0 = zero noise, deterministic).
    temporal_ensemble: m >= 0 averages what all chunks so far say about a step, with weights exp(-m i), i = 0 the oldest
    (Zhao et al. 2023, ACT, section IV.B; there m = 0.01); a chunk is then sampled every `execute_steps` steps, every
    step where that is 0. -1 = off.
    """

    flow_steps: int = 10
    execute_steps: int = 0
    eval_temperature: float = 0.0
    temporal_ensemble: float = -1.0

    def steps_between(self, horizon: int) -> int:
        """Steps that are executed before the next chunk of `horizon` steps is sampled."""
        return self.execute_steps or (horizon if self.temporal_ensemble < 0 else 1)

    def label(self) -> str:
        text = f"flow_steps={self.flow_steps}"
        if self.execute_steps:
            text += f" execute_steps={self.execute_steps}"
        if self.eval_temperature:
            text += f" eval_temperature={self.eval_temperature:g}"
        if self.temporal_ensemble >= 0:
            text += f" temporal_ensemble={self.temporal_ensemble:g}"
        return text


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
    kind: str = ""
    """Of an error: see `raybc.rollout.faults`."""

    def to_row(self) -> dict[str, Any]:
        """`raybc.rows.EpisodeRow`."""
        row = {
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
        return row | {"error_kind": self.kind} if self.kind else row
