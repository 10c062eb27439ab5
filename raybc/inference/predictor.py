"""What an episode needs of a policy: its sizes, and somebody who predicts chunks.

No torch in here, because processes of simulators in environments of their own have none. Letters: B batch,
T observation steps, O observation dim, H chunk, A action dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from raybc.data.action_form import ActionForm
from raybc.foreign.reference import is_reference
from raybc.policies.spec import PolicySpec
from raybc.run_folder import BUNDLE_FILE
from raybc.types import EpisodeSpec, Observation, SampleSetting

if TYPE_CHECKING:
    from raybc.envs.base import SimEnv, Task

#: Number of bundles that a process keeps in memory.
KEEP = 16


class ActingPolicy(Protocol):
    """What an episode needs to know of a policy: a `PolicyBundle`, or its `PolicyInterface`."""

    @property
    def obs_sizes(self) -> Mapping[str, int]:
        """Low-dimensional observation -> size, in the order in which they are concatenated."""

    @property
    def images(self) -> Mapping[str, tuple[int, int, int]]:
        """Image -> (height, width, channels)."""

    @property
    def spec(self) -> PolicySpec:
        """Sizes of the network."""

    @property
    def action_form(self) -> ActionForm:
        """What the network gives, and the environment's actions that are made from it."""


@dataclass(frozen=True)
class PolicyInterface:
    """An `ActingPolicy` without weights, to be sent to processes that have no torch."""

    obs_sizes: Mapping[str, int]
    images: Mapping[str, tuple[int, int, int]]
    spec: PolicySpec
    action_form: ActionForm

    @classmethod
    def of(cls, bundle: ActingPolicy) -> PolicyInterface:
        return cls(dict(bundle.obs_sizes), dict(bundle.images), bundle.spec, bundle.action_form)


class Prediction(Protocol):
    """A future of chunks; physical, float32 (B, H, A)."""

    def get(self) -> np.ndarray:
        """Wait for the chunks."""


class Predictor(Protocol):
    """Predicts chunks: an `Agent` in this process, or a network that many processes share."""

    @property
    def bundle(self) -> ActingPolicy:
        """The policy that predicts."""

    @property
    def overlaps(self) -> bool:
        """Whether `predict` returns at once, so that simulators can step in the meantime."""

    def predict(self, obs: Observation[np.ndarray], noise: np.ndarray, setting: SampleSetting) -> Prediction:
        """The next chunk of each row. obs: physical, leading axis B. noise: float32, already scaled, (B, H, A), or
        (B, N, H, A) with best_of_n N above 1."""


class PolicyError(RuntimeError):
    """A policy gave no actions: it raised, did not answer, or answered something else. Its episode is an error, which
    another attempt would not change."""


class EpisodeSession(ABC):
    """What a policy remembers of one episode."""

    instruction: str = ""
    """What the robot should do, in words, from the next chunk on; "" without."""

    @abstractmethod
    def observe(self, obs: Mapping[str, np.ndarray]) -> None:
        """Add an observation: name -> float32 (size,), or uint8 (height, width, channels); physical."""

    @abstractmethod
    def plan(self, chunk_HA: np.ndarray, max_steps: int | None = None) -> np.ndarray:
        """The actions to execute before the next chunk, physical (steps, A), float32, not clipped."""

    def end(self, outcome: str) -> None:  # noqa: B027  (most have nothing to do)
        """The episode has ended."""


class ManyAnswers(Protocol):
    """A future of the chunks of several episodes."""

    def get(self) -> Sequence[Any]:
        """Wait for the chunks: physical float32 (H, A) for each episode, or a `PolicyError` where there is none."""


class EpisodePredictor(ABC):
    """Predicts for episodes rather than for rows of a batch: it may remember what it saw, and fail for one of them."""

    batched: bool = False
    """Whether several episodes are asked at once; otherwise each is by itself."""

    @abstractmethod
    def session(self, task: Task, env: SimEnv, spec: EpisodeSpec, setting: SampleSetting) -> EpisodeSession:
        """The session of an episode that is about to begin."""

    @abstractmethod
    def predict_episodes(self, sessions: Sequence[EpisodeSession]) -> ManyAnswers:
        """The next chunk of each of these sessions, which are its own."""


def bundle_version(path: str) -> int:
    """A number that changes when the bundle at `path` is replaced; part of the key of caches of bundles. 0 for policies
    of others, which stay what they are while a process runs."""
    if is_reference(path):
        return 0
    return (Path(path) / BUNDLE_FILE).stat().st_mtime_ns


class Resolved:
    """A `Prediction` that is already available."""

    def __init__(self, chunks_BHA: np.ndarray) -> None:
        self._chunks_BHA = chunks_BHA

    def get(self) -> np.ndarray:
        return self._chunks_BHA


def stack(observed: Sequence[Mapping[str, np.ndarray]], keys: Sequence[str], obs_steps: int) -> np.ndarray:
    """The last `obs_steps` low-dimensional observations, float32 (T, O), padded by repeating the first one."""
    if not keys:
        return np.zeros((obs_steps, 0), np.float32)
    return stack_steps([np.concatenate([obs[k] for k in keys]) for obs in observed[-obs_steps:]], obs_steps).astype(
        np.float32, copy=False
    )


def stack_steps(rows: Sequence[np.ndarray], obs_steps: int) -> np.ndarray:
    """The last `obs_steps` arrays, (T, ...), padded by repeating the first one."""
    rows = list(rows[-obs_steps:])
    return np.stack([rows[0]] * (obs_steps - len(rows)) + rows)


def stack_rows(rows: Sequence[Observation[np.ndarray]]) -> Observation[np.ndarray]:
    """Stack observations along a new leading axis."""
    texts = tuple(text for row in rows for text in row.instruction or ())
    return Observation(
        np.stack([row.low_dim for row in rows]),
        {name: np.stack([row.images[name] for row in rows]) for name in rows[0].images},
        texts or None,
    )


def concatenated(parts: Sequence[Observation[np.ndarray]]) -> Observation[np.ndarray]:
    """Concatenate observations along their leading axis."""
    texts = tuple(text for part in parts for text in part.instruction or ())
    return Observation(
        np.concatenate([part.low_dim for part in parts]),
        {name: np.concatenate([part.images[name] for part in parts]) for name in parts[0].images},
        texts or None,
    )
