"""How often training draws the anchors of a plan, known before it starts. Letters: P anchors, n draws of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from raybc.types import UserError


@dataclass(frozen=True)
class Exposure:
    """What n draws with probabilities p_i = w_i / sum_j w_j amount to."""

    anchors: int
    """P."""
    draws: int
    """n."""
    ess: float
    """Effective sample size, 1 / sum_i p_i^2."""
    expected_unique: float
    """Expected number of anchors drawn at least once: sum_i (1 - (1 - p_i)^n); min(P, n) without replacement."""
    expected_coverage: float
    """expected_unique / P."""
    avg_repeat: float
    """n / expected_unique."""
    repeat_eff: float
    """n / ess."""


def exposure(weights_P: np.ndarray, draws: int, replacement: bool) -> Exposure:
    """The exposure of `draws` (gradient steps x batch size, at least 1) draws with these weights."""
    if draws < 1:
        raise UserError(f"draws: expected at least 1, got {draws}")
    p = weights_P / weights_P.sum()
    count = len(p)
    ess = float(1 / np.square(p).sum())
    if replacement:
        with np.errstate(divide="ignore"):  # a single anchor: log(1 - 1) = -inf, which is right
            # (1 - p)^n loses every digit of a small p; exp(n log1p(-p)) - 1 does not.
            unique = float(-np.expm1(draws * np.log1p(-p)).sum())
    else:
        unique = float(min(count, draws))
    return Exposure(count, draws, ess, unique, unique / count, draws / unique, draws / ess)


def plan_lr_scale(repeat_eff: float, target_repeat: float, power: float, min_scale: float) -> float:
    """Factor of the learning rate, clip((target_repeat / repeat_eff)^power, min_scale, 1).

    1 where anchors are repeated no more often than the target, smaller where a long training has few of them. Raises
    `UserError` for arguments out of range.
    """
    if not (math.isfinite(target_repeat) and target_repeat > 0):
        raise UserError(f"plan_target_effective_repeat: expected a finite number above 0, got {target_repeat}")
    if not (math.isfinite(power) and power >= 0):
        raise UserError(f"plan_lr_scale_power: expected a finite number of at least 0, got {power}")
    if not 0 < min_scale <= 1:
        raise UserError(f"plan_lr_min_scale: expected more than 0 and at most 1, got {min_scale}")
    return float(min(1.0, max(min_scale, (target_repeat / repeat_eff) ** power)))
