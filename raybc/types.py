"""Shared data types.

Shape letters, used in all modules: B batch, M members of a pack (seeds), T observation steps, O observation
dim, H horizon_length (chunk), A action dim, N transitions, E episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:  # importing these types must not import torch
    from torch import Tensor

Outcome = Literal["success", "failure", "timeout", "error"]
Split = Literal["demos", "search", "final", "online"]

#: Maximum number of starts in a set, so that the seeds of different sets do not overlap.
SPLIT_SIZE = 1_000_000
#: Set of starts -> its first seed.
SPLIT_BASE: dict[str, int] = {"demos": 0, "search": SPLIT_SIZE, "final": 2 * SPLIT_SIZE, "online": 3 * SPLIT_SIZE}
#: Solver -> evaluations of the network per step.
EVALUATIONS: dict[str, int] = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


class PlainError(Exception):
    """An error whose message says everything: a notebook shows it without the frames that raised it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it."""
        return [f"{type(self).__name__}: {self}"]


class UserError(PlainError, ValueError):
    """A mistake in the user's input. The message says what was expected, what was found, where, and what to do.

    Command lines print it as one line and exit with status 2. It never means a bug in raybc.
    """


Array = TypeVar("Array")


@dataclass(frozen=True)
class Observation(Generic[Array]):
    """What a policy sees: the last T steps, oldest first, of one or more examples (leading axes `...`).

    Outside of networks: numpy arrays in physical units. Inside: PyTorch tensors, normalised.
    """

    low_dim: Array
    """float32 (..., T, O), the concatenated low-dimensional observations; O = 0 if there are none."""
    images: Mapping[str, Array] = field(default_factory=dict)
    """Name -> uint8 (..., T, height, width, channels)."""
    instruction: tuple[str, ...] | None = None
    """What the robot should do, in words: one text per example, outside of networks; None without."""
    language: Array | None = None
    """float32 (..., E), the embeddings of the instructions, inside of networks; None for policies that read none."""

    def map(self, change: Callable[[Array], Any]) -> Observation[Any]:
        """A copy with `change` applied to each array."""
        images = {name: change(array) for name, array in self.images.items()}
        language = None if self.language is None else change(self.language)
        return Observation(change(self.low_dim), images, self.instruction, language)


@dataclass(frozen=True)
class Transition:
    """What executing chunks of h steps led to, for M members."""

    reward_MB: Tensor
    """float32, the discounted rewards of the chunk: the sum of gamma^i r_{t+i} over i < h."""
    next_obs: Observation[Tensor]
    """The observation after the chunk, normalised; leading axes (M, B)."""
    mask_MB: Tensor
    """float32, 0 where the chunk ended the episode (not by a time limit), so that nothing follows; else 1."""
    valid_MB: Tensor
    """float32, 1 where the chunk lies in its episode and what follows is known; else 0, and the rest means nothing."""


@dataclass(frozen=True)
class Batch:
    """Training examples for M members, normalised."""

    obs: Observation[Tensor]
    """Leading axes (M, B)."""
    actions_MBHA: Tensor
    """float32, normalised chunks."""
    is_pad_MBH: Tensor
    """bool, True where a chunk extends beyond the end of its episode; such steps have no loss."""
    transition: Transition | None = None
    """What executing the chunk led to, for learners that need rewards."""


@dataclass(frozen=True)
class EpisodeSpec:
    """One start of one task.

    Its seed determines the start state and the sampling noise. The result of an episode therefore depends only on the
    spec, the policy and the sample setting.
    """

    task: str
    split: Split
    index: int
    """Position in the split, from 0."""

    def __post_init__(self) -> None:
        if self.split not in SPLIT_BASE:
            raise UserError(f"split: expected one of {sorted(SPLIT_BASE)}, got {self.split!r}")
        if not 0 <= self.index < SPLIT_SIZE:
            raise UserError(f"episode index: expected 0..{SPLIT_SIZE - 1}, got {self.index}")

    @property
    def seed(self) -> int:
        """The seed of the start state and of the sampling noise."""
        return SPLIT_BASE[self.split] + self.index


@dataclass(frozen=True)
class SampleSetting:
    """How actions are sampled from a trained policy; changing it needs no new training."""

    flow_steps: int = 10
    """Steps of the solver of a flow, or of DDIM; 0 for a policy without steps."""
    execute_steps: int = 0
    """Steps of a chunk that are executed before the next one is sampled (0: the whole chunk)."""
    eval_temperature: float = 0.0
    """Scale of the initial noise (0: zero noise, deterministic)."""
    temporal_ensemble: float = -1.0
    """m >= 0: average the predictions of all chunks for a step, with weights exp(-m i), i = 0 the oldest (Zhao et al.
    2023, ACT, section IV.B, where m = 0.01). A chunk is then sampled every `execute_steps` steps, or every step if that
    is 0. -1: off."""
    solver: str = "euler"
    """Solver of a flow: euler, midpoint, heun or rk4 (`raybc.policies.solvers`)."""
    best_of_n: int = 1
    """N: of as many sampled chunks the one that the policy's critic values most is executed (1: the critic is not
    asked)."""

    def to_plain(self) -> dict[str, Any]:
        """Field -> value for JSON. Fields that release 0.1.0 did not know are left out at their default, so that what
        it has written and what is written now are the same text."""
        values = dict(vars(self))
        for name, default in (("solver", "euler"), ("best_of_n", 1)):
            if values[name] == default:
                del values[name]
        return values

    @property
    def evaluations(self) -> int:
        """Evaluations of the network per chunk for a flow or DDIM, of all candidates; 0 if `flow_steps` is."""
        return self.flow_steps * EVALUATIONS[self.solver] * self.best_of_n

    @property
    def order(self) -> tuple[float | str, ...]:
        """Of settings that do equally well the smallest is preferred: fewest evaluations, then fewest steps."""
        return self.evaluations, *astuple(self)

    @property
    def of_network(self) -> SampleSetting:
        """The part that affects the network; the other fields concern only the episode."""
        return replace(self, execute_steps=0, eval_temperature=0.0, temporal_ensemble=-1.0)

    def steps_between(self, horizon: int) -> int:
        """Steps to execute before the next chunk of `horizon` steps is sampled."""
        return self.execute_steps or (horizon if self.temporal_ensemble < 0 else 1)

    def canonical(self, horizon: int) -> SampleSetting:
        """The setting that does the same with chunks of `horizon` steps and is written in the shortest way."""
        steps = self.steps_between(horizon)
        if self.temporal_ensemble >= 0 and steps < horizon:
            return replace(self, execute_steps=steps)
        return replace(self, execute_steps=0 if steps == horizon else steps, temporal_ensemble=-1.0)

    def slug(self) -> str:
        """The setting as a part of file names: `flow_4`, and every other field that is not the default."""
        parts = [f"flow_{self.flow_steps}"]
        parts += [f"execute_{self.execute_steps}"] if self.execute_steps else []
        parts += [f"temperature_{self.eval_temperature:g}"] if self.eval_temperature else []
        parts += [f"ensemble_{self.temporal_ensemble:g}"] if self.temporal_ensemble >= 0 else []
        parts += [self.solver] if self.solver != "euler" else []
        parts += [f"best_of_{self.best_of_n}"] if self.best_of_n > 1 else []
        return "_".join(parts)

    def label(self) -> str:
        """Text for people: the fields that differ from the defaults, and flow_steps if the policy has a flow."""
        parts = [f"flow_steps={self.flow_steps}"] if self.flow_steps else []
        parts += [f"execute_steps={self.execute_steps}"] if self.execute_steps else []
        parts += [f"eval_temperature={self.eval_temperature:g}"] if self.eval_temperature else []
        parts += [f"temporal_ensemble={self.temporal_ensemble:g}"] if self.temporal_ensemble >= 0 else []
        parts += [f"solver={self.solver}"] if self.solver != "euler" else []
        parts += [f"best_of_n={self.best_of_n}"] if self.best_of_n > 1 else []
        return " ".join(parts) or "default sampling"


@dataclass(frozen=True)
class EpisodeResult:
    """The result of one episode."""

    index: int
    """`EpisodeSpec.index`."""
    seed: int
    """`EpisodeSpec.seed`."""
    outcome: Outcome
    """timeout: the step limit was reached, which counts as not solved. failure: the simulator ended the episode. error:
    the simulator failed even after retries in a new process; it is reported, but not part of success rates."""
    episode_return: float
    """Sum of the rewards."""
    steps: int
    """Environment steps."""
    seconds: float
    """Core time of the episode."""
    max_reward: float = 0.0
    """Highest reward of a step (PushT's score)."""
    retries: int = 0
    """Retries after failures of the simulator."""
    message: str = ""
    """Description of an error, or of an unusual end."""
    kind: str = ""
    """Kind of an error, see `raybc.rollout.faults`."""
    traceback: str = ""
    """Of an error that was an exception."""
    truncated: bool = False
    """Whether the simulator truncated the episode before the task's step limit."""
    solved_at_reset: bool = False
    """Whether the start was solved before the first step."""

    def to_row(self) -> dict[str, Any]:
        """The result as a `raybc.rows.EpisodeRow`."""
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
        rare = {
            "error_kind": self.kind,
            "traceback": self.traceback,
            "truncated": self.truncated,
            "solved_at_reset": self.solved_at_reset,
        }
        return row | {name: value for name, value in rare.items() if value}
