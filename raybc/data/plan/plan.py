"""`SamplingPlan`: the windows that training may draw, their weights, and everything that they were computed from.

Letters: N transitions of the data set, E kept episodes, P anchors, J gripper events, Q boundaries of stages, K stages,
H steps of a window. Frames count from 0 in their episode; indices count from 0 in the flat arrays of the data set.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raybc.data.plan.config import OF_EPISODES, PlanConfig
from raybc.strict import digest
from raybc.types import UserError

FORMAT = "raybc sampling plan"
VERSION = 1
VALID_START_FORMULA = "f <= min(L - H + tail_keep, L - 1)"

#: Part of the data that normalisation is fitted to. anchors: the transitions that windows begin at; episodes: all
#: transitions of the kept episodes; episodes_valid: those of them that are valid starts.
SubsetMode = Literal["anchors", "episodes", "episodes_valid"]


@dataclass(frozen=True)
class SamplingPlan:
    """A plan. Arrays are little-endian int64; indices and episode numbers are ascending and without repeats.

    Raises `UserError` for arrays that do not fit each other or the parameters.
    """

    config: PlanConfig
    """The parameters."""
    repo_id: str
    """Name of the data set."""
    dataset_fingerprint: str
    """`EpisodeStore.fingerprint` of the data set."""
    dataset_len: int
    """N."""
    stride_used: int
    """stride_S after halving."""
    anchors_P: np.ndarray
    """Indices of the transitions that windows may begin at."""
    weights_P: np.ndarray
    """float64, above 0, not normalised."""
    stages_P: np.ndarray
    """0..K - 1, the stage of each anchor."""
    events_J: np.ndarray
    """Indices of the gripper events."""
    boundaries_Q: np.ndarray
    """Indices of the first transitions of stages other than the first."""
    episodes_E: np.ndarray
    """Numbers of the kept episodes in the data set."""
    begins_E: np.ndarray
    """Index of the first transition of each kept episode."""
    lengths_E: np.ndarray
    """Frames of each kept episode."""
    worth_E: np.ndarray | None = None
    """float64, above 0: weight of each kept episode by its score; None without scores."""

    def __post_init__(self) -> None:
        self.config.validate("plan")
        for name, array in self.arrays().items():
            kind = np.dtype("<f8" if name in ("weights", "episode_weights") else "<i8")
            if array.dtype != kind or array.ndim != 1:
                raise UserError(f"plan: {name}: expected {kind} of 1 dimension, got {array.dtype} of {array.ndim}")
            if name not in ("weights", "stage_ids", "episode_lengths", "episode_weights") and np.any(
                np.diff(array) <= 0
            ):
                raise UserError(f"plan: {name}: expected ascending numbers without repeats")
            array.setflags(write=False)
        lengths = {len(a) for a in (self.anchors_P, self.weights_P, self.stages_P)}
        if len(lengths) > 1 or not len(self.anchors_P):
            raise UserError(
                f"plan: expected as many anchors as weights and stages, at least one, got {sorted(lengths)}"
            )
        if not (np.isfinite(self.weights_P).all() and (self.weights_P > 0).all()):
            raise UserError("plan: weights: expected finite numbers above 0; lower inv_freq_power or clip_ratio")
        if self.stages_P.min() < 0 or self.stages_P.max() >= self.config.num_stages_K:
            raise UserError(f"plan: stage_ids: expected 0..{self.config.num_stages_K - 1}, got {self.stages_P.max()}")
        if (self.worth_E is not None) != (self.config.weights in OF_EPISODES):
            raise UserError("plan: episode_weights: expected them with weights quality or advantage, and only then")
        worth_E = self.worth_E
        if worth_E is not None and not (
            len(worth_E) == len(self.episodes_E) and np.isfinite(worth_E).all() and (worth_E > 0).all()
        ):
            raise UserError(
                "plan: episode_weights: expected a finite number above 0 for each episode; lower score_power"
            )
        self._check_bounds()

    def _check_bounds(self) -> None:
        if not len(self.episodes_E) == len(self.begins_E) == len(self.lengths_E) or not len(self.episodes_E):
            raise UserError("plan: expected as many episode_begins and episode_lengths as episodes_keep, at least one")
        ends_E = self.begins_E + self.lengths_E
        apart = np.all(ends_E[:-1] <= self.begins_E[1:])
        if self.lengths_E.min() < 1 or self.begins_E[0] < 0 or ends_E[-1] > self.dataset_len or not apart:
            raise UserError(f"plan: expected episodes inside the {self.dataset_len} transitions of the data set")
        for name in ("anchor_indices", "event_indices", "boundary_indices"):
            indices = self.arrays()[name]
            rows = self.rows_of(indices)
            if np.any(rows < 0) or np.any(indices >= ends_E[rows]):
                raise UserError(f"plan: {name}: expected indices inside the kept episodes")
        if np.any(self.frames_P > self.last_starts_E[self.rows_of(self.anchors_P)]):
            raise UserError(f"plan: anchor_indices: expected valid starts ({VALID_START_FORMULA})")

    def arrays(self) -> dict[str, np.ndarray]:
        """The contents of plan_arrays.npz."""
        return {
            "anchor_indices": self.anchors_P,
            "weights": self.weights_P,
            "stage_ids": self.stages_P,
            "event_indices": self.events_J,
            "boundary_indices": self.boundaries_Q,
            "episodes_keep": self.episodes_E,
            "episode_begins": self.begins_E,
            "episode_lengths": self.lengths_E,
            **({} if self.worth_E is None else {"episode_weights": self.worth_E}),
        }

    def meta(self) -> dict[str, Any]:
        """The contents of plan_meta.json. `plan_sha256` is computed over all the rest, which contains the checksums of
        the arrays."""
        meta: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "repo_id": self.repo_id,
            "dataset_fingerprint": self.dataset_fingerprint,
            "dataset_len": self.dataset_len,
            "action_horizon": self.config.horizon_length,
            "episodes_keep": self.episodes_E.tolist(),
            "valid_start_rule": {"formula": VALID_START_FORMULA, "tail_keep": self.config.tail_keep},
            "stride_used": self.stride_used,
            "sampler_seed": self.config.sampler_seed,
            "replacement": self.config.replacement,
            "parameters": self.config.to_plain(),
            "arrays": {
                name: {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": sha256(array)}
                for name, array in self.arrays().items()
            },
        }
        return meta | {"plan_sha256": digest(meta)}

    @functools.cached_property
    def plan_sha256(self) -> str:
        """sha256 (hex) of the parameters and arrays, which identifies the plan."""
        return str(self.meta()["plan_sha256"])

    @property
    def last_starts_E(self) -> np.ndarray:
        """Last valid start of each kept episode, a frame; negative where there is none."""
        return last_starts(self.lengths_E, self.config)

    @property
    def frames_P(self) -> np.ndarray:
        """The frame of each anchor."""
        return self.anchors_P - self.begins_E[self.rows_of(self.anchors_P)]

    def rows_of(self, indices: np.ndarray) -> np.ndarray:
        """Position among the kept episodes (0..E - 1) of the episode that contains each index; -1 before the first."""
        return np.searchsorted(self.begins_E, indices, side="right") - 1

    def fit_rows(self, mode: SubsetMode) -> np.ndarray:
        """Indices of the transitions to fit normalisation to, int64, ascending."""
        if mode == "anchors":
            return self.anchors_P
        counts_E = self.lengths_E if mode == "episodes" else np.maximum(self.last_starts_E + 1, 0)
        return np.concatenate([b + np.arange(n) for b, n in zip(self.begins_E, counts_E, strict=True)])

    def notes(self) -> list[str]:
        """What a user may not expect of this plan, one sentence each."""
        config, found = self.config, []
        if self.stride_used < config.stride_S:
            found.append(
                f"stride_S was halved: {config.stride_S} to {self.stride_used}, to have {config.required_anchors} "
                "anchors"
            )
        if len(self.anchors_P) < config.batch_size:
            found.append(
                f"{len(self.anchors_P)} anchors do not fill a batch of {config.batch_size}: trainings refuse it"
            )
        if config.tail_keep != config.valid_start_tail_keep:
            found.append(
                f"valid_start_tail_keep was cut: {config.valid_start_tail_keep} to {config.tail_keep} (0..H - 1)"
            )
        bare = np.setdiff1d(np.arange(len(self.episodes_E)), self.rows_of(self.anchors_P))
        if len(bare):
            why = f"too short for H = {config.horizon_length} and stride {self.stride_used}"
            found.append(f"without an anchor ({why}): {_episodes(self, bare)}")
        present = np.unique(self.stages_P)
        if len(present) < config.num_stages_K:
            missing = sorted(set(range(config.num_stages_K)) - set(present.tolist()))
            found.append(f"stages without an anchor: {', '.join(map(str, missing))}")
        if config.stage_strategy == "change_point_state":
            cuts_E = np.bincount(self.rows_of(self.boundaries_Q), minlength=len(self.episodes_E))
            few = np.flatnonzero(cuts_E < config.num_stages_K - 1)
            if len(few):
                found.append(f"fewer than {config.num_stages_K} stages (too few peaks): {_episodes(self, few)}")
        if config.gripper_event_enabled:
            still = np.setdiff1d(np.arange(len(self.episodes_E)), self.rows_of(self.events_J))
            if len(still):
                found.append(f"without a gripper event: {_episodes(self, still)}")
        return found


def last_starts(lengths_E: np.ndarray, config: PlanConfig) -> np.ndarray:
    """min(L - H + tail_keep, L - 1): the last frame that a window may begin at; negative where there is none."""
    return np.minimum(lengths_E - config.horizon_length + config.tail_keep, lengths_E - 1)


def sha256(array: np.ndarray) -> str:
    """sha256 (hex) of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def from_arrays(meta: Mapping[str, Any], config: PlanConfig, arrays: Mapping[str, np.ndarray]) -> SamplingPlan:
    """The plan of the contents of plan_meta.json and plan_arrays.npz."""
    return SamplingPlan(
        config=config,
        repo_id=meta["repo_id"],
        dataset_fingerprint=meta["dataset_fingerprint"],
        dataset_len=meta["dataset_len"],
        stride_used=meta["stride_used"],
        anchors_P=arrays["anchor_indices"],
        weights_P=arrays["weights"],
        stages_P=arrays["stage_ids"],
        events_J=arrays["event_indices"],
        boundaries_Q=arrays["boundary_indices"],
        episodes_E=arrays["episodes_keep"],
        begins_E=arrays["episode_begins"],
        lengths_E=arrays["episode_lengths"],
        worth_E=arrays.get("episode_weights"),
    )


def _episodes(plan: SamplingPlan, rows: np.ndarray, most: int = 8) -> str:
    numbers = plan.episodes_E[rows].tolist()
    shown = ", ".join(map(str, numbers[:most]))
    return f"{'episode' if len(numbers) == 1 else 'episodes'} {shown}" + (
        f" and {len(numbers) - most} more" if len(numbers) > most else ""
    )
