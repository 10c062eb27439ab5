"""The parameters of a sampling plan and their only defaults; they are the flags of `python -m raybc.plan build`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from raybc.config import RunConfig, flag_path
from raybc.types import UserError

StageStrategy = Literal["time_quantile", "change_point_state"]
StageBalance = Literal["uniform_over_stage", "inv_freq"]
EventMode = Literal["soft_exp", "hard"]
Weights = Literal["stages", "quality", "advantage"]
#: Kinds of weights with which episodes have weights.
OF_EPISODES = ("quality", "advantage")
#: Parameters that earlier releases did not know; a plan records them only where they are not the default.
ADDED = ("weights", "score_column", "score_power", "scores_sha256", "beta", "discount")
#: Those that have an effect with one kind of weights only.
_ONLY_WITH = {"quality": ADDED[1:4], "advantage": ADDED[4:]}


@dataclass(frozen=True)
class PlanConfig:
    """How a plan is built from the training episodes of a data set."""

    horizon_length: int = RunConfig.horizon_length
    """H, the steps of a window: the chunk length of the training (1 without action chunking)."""
    batch_size: int = RunConfig.batch_size
    """Examples of a training step: the plan has to fill a batch, and exposure is computed with it."""
    num_episodes_keep: int = 0
    """Number of training episodes to keep (0: all). With the same seed, fewer are a subset of more."""
    episode_selection_seed: int = 0
    """Seed of the choice of episodes."""
    valid_start_tail_keep: int = 0
    """Starts kept after the last complete window of an episode (0: none, H - 1: all; clamped to 0..H - 1)."""
    stride_S: int = 2
    """Steps between anchors (starts that may be drawn) of an episode; halved while there are fewer than min_anchors."""
    plan_seed: int = 0
    """Seed of the first anchor of each episode."""
    min_anchors: int = 0
    """Minimum number of anchors (0: batch_size)."""
    stage_strategy: StageStrategy = "time_quantile"
    """time_quantile: equal shares of the time of each episode; change_point_state: cut where the state jumps."""
    num_stages_K: int = 4
    """K, the number of stages of an episode (change_point_state: the maximum)."""
    change_point_delta: int = 3
    """Steps over which the change of the state is measured."""
    change_point_min_gap: int = 10
    """Minimum number of steps between two boundaries."""
    stage_balance: StageBalance = "uniform_over_stage"
    """uniform_over_stage: all stages are drawn equally often; inv_freq: weights 1 / count^inv_freq_power."""
    inv_freq_power: float = 1.0
    """p of inv_freq (0: stages do not matter, 1: as uniform_over_stage, larger: rare stages are drawn more often)."""
    clip_ratio: float = 10.0
    """Weights are clipped to [median / clip_ratio, median x clip_ratio]."""
    epsilon_mix: float = 0.05
    """Share of the mean weight in every weight (0: none, 1: all weights equal)."""
    gripper_event_enabled: bool = False
    """Whether to draw windows near the opening and closing of a gripper more often."""
    gripper_dims: str = ""
    """Dimensions of the state that are grippers, separated by commas, e.g. 6,13."""
    gripper_smooth_window: int = 5
    """Steps of the median filter against jitter (odd)."""
    gripper_delta1: int = 1
    """Steps of the first difference."""
    gripper_delta2: int = 5
    """Steps of the second difference."""
    gripper_quantile_q: float = 0.95
    """Quantile of an episode's differences below which there is no event."""
    gripper_min_gap: int = 10
    """Minimum number of steps between two events."""
    gripper_event_mode: EventMode = "soft_exp"
    """soft_exp: weights decay with the distance to an event; hard: equal weights within gripper_window_w."""
    gripper_sigma: float = 10.0
    """Steps in which soft_exp decays to 1/e."""
    gripper_window_w: int = 10
    """Steps around an event that count in mode hard."""
    gripper_gamma: float = 2.0
    """The weight of a window at an event is multiplied by 1 + gamma."""
    weights: Weights = "stages"
    """stages: what an episode is worth does not matter; quality: weights are also multiplied by the episode's score;
    advantage: by exp(A / beta), where A is the episode's return minus the mean, in standard deviations."""
    score_column: str = "quality"
    """The column of the scores: a probability is the weight, of other columns the rank (1 for the best episode)."""
    score_power: float = 1.0
    """Power to which the weights of episodes are raised (0: scores do not matter)."""
    scores_sha256: str = ""
    """Required sha256 of the scores (empty: any; recorded in the plan)."""
    beta: float = 1.0
    """Temperature of weights advantage: smaller ones prefer high returns more."""
    discount: float = 1.0
    """Discount of a step in the returns of weights advantage; below 1, rewards that come early count more."""
    state_keys: str = ""
    """Observations that make up the state, separated by commas (empty: those of env_name's task, or all, sorted)."""
    sampler_seed: int = 0
    """Seed of the draws in training (together with the seed of the training)."""
    replacement: bool = True
    """Whether to draw with replacement; otherwise every anchor is drawn once before any is drawn again, heavy ones
    earlier."""

    @property
    def tail_keep(self) -> int:
        """clamp(valid_start_tail_keep, 0, H - 1)."""
        return min(max(self.valid_start_tail_keep, 0), self.horizon_length - 1)

    @property
    def required_anchors(self) -> int:
        """Minimum number of anchors."""
        return self.min_anchors or self.batch_size

    @property
    def dims(self) -> tuple[int, ...]:
        """gripper_dims as integers. Raises `UserError` for anything else."""
        parts = [p.strip() for p in self.gripper_dims.split(",")] if self.gripper_dims.strip() else []
        if not all(p.isascii() and p.isdigit() for p in parts):
            raise UserError(
                f"gripper_dims: expected dimensions of the state, from 0 on and separated by commas, e.g. 6,13, "
                f"got {self.gripper_dims!r}"
            )
        return tuple(int(p) for p in parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """state_keys as names."""
        return tuple(k.strip() for k in self.state_keys.split(",") if k.strip())

    def to_plain(self) -> dict[str, Any]:
        """Parameter -> value; those of `ADDED` at their default are left out, so that plans of earlier releases and
        their checksums stay as they are."""
        return {k: v for k, v in vars(self).items() if k not in ADDED or v != getattr(PlanConfig, k)}

    def validate(self, where: str = "plan") -> None:
        """Raise `UserError`, with `where` before the name of the parameter, for the first impossible value."""
        at_least = {
            "horizon_length": 1, "batch_size": 1, "num_episodes_keep": 0, "episode_selection_seed": 0,
            "stride_S": 1, "plan_seed": 0, "min_anchors": 0, "num_stages_K": 1, "change_point_delta": 1,
            "change_point_min_gap": 1, "inv_freq_power": 0, "clip_ratio": 1, "gripper_smooth_window": 1,
            "gripper_delta1": 1, "gripper_delta2": 1, "gripper_min_gap": 1, "gripper_window_w": 0,
            "gripper_gamma": 0, "sampler_seed": 0, "score_power": 0,
        }  # fmt: skip
        for name, low in at_least.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= low):
                raise UserError(f"{flag_path(where)}{name}: expected at least {low}, got {value}")
        for name in ("epsilon_mix", "gripper_quantile_q"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{flag_path(where)}{name}: expected 0..1, got {getattr(self, name)}")
        if not (math.isfinite(self.gripper_sigma) and self.gripper_sigma > 0):
            raise UserError(
                f"{flag_path(where)}gripper_sigma: expected a finite number above 0, got {self.gripper_sigma}"
            )
        for kind, names in _ONLY_WITH.items():
            for name in names:
                if self.weights != kind and getattr(self, name) != getattr(PlanConfig, name):
                    raise UserError(f"{flag_path(where)}{name}: has no effect without weights {kind}")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise UserError(f"{flag_path(where)}beta: expected a finite number above 0, got {self.beta}")
        if not 0 < self.discount <= 1:
            raise UserError(f"{flag_path(where)}discount: expected above 0 and at most 1, got {self.discount}")
        if self.gripper_smooth_window % 2 == 0:
            raise UserError(
                f"{flag_path(where)}gripper_smooth_window: expected an odd number (a middle), "
                f"got {self.gripper_smooth_window}"
            )
        if self.gripper_event_enabled and not self.dims:
            raise UserError(
                f"{flag_path(where)}gripper_dims: expected the dimensions of the state that are grippers, e.g. 6,13, "
                "with gripper_event_enabled"
            )
