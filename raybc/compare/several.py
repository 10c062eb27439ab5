"""More than two arms, and more than one training: corrections and resampling. Mathematics only.

Letters: K trainings (seeds) of an arm, N starts. Scores: (K, N), nan for an error.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from raybc.compare.pairs import Interval

Name = TypeVar("Name", bound=Hashable)
#: Resamples of a bootstrap.
RESAMPLES = 2000


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Adjusted p-values: rejecting those of at most the level makes any false rejection at all improbable (level),
    whatever the dependence. In the order of `p_values`.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (2), 1979.
    """
    found: dict[Name, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        found[name] = largest
    return {name: found[name] for name in p_values}


def not_beaten(arms: Sequence[str], worse: Mapping[str, Sequence[str]]) -> list[str]:
    """The arms that cannot be distinguished from the best: those that were not shown to be worse than another one."""
    return [arm for arm in arms if not worse.get(arm)]


def improvement(a_KN: np.ndarray, b_KN: np.ndarray, *, paired: bool) -> float | None:
    """P(A > B) + P(A = B) / 2.

    Several trainings on a side: of the mean scores of a training of A and one of B, over all pairs of them. One
    training each: of the scores on one start, the same for both where they are paired. None without scores.

    Source: R. Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021
    (probability of improvement).
    """
    if len(a_KN) > 1 or len(b_KN) > 1:
        pairs = np.nanmean(a_KN, axis=1)[:, None] - np.nanmean(b_KN, axis=1)[None]
    elif paired:
        pairs = a_KN[0] - b_KN[0]
    else:
        pairs = a_KN[0][:, None] - b_KN[0][None]
    pairs = pairs[~np.isnan(pairs)]
    return float(np.mean((pairs > 0) + (pairs == 0) / 2)) if pairs.size else None


def another_training(
    a_KN: np.ndarray, b_KN: np.ndarray, *, paired: bool, confidence: float = 0.95, seed: int = 0
) -> Interval | None:
    """Interval of the difference of means over trainings and starts: what would other seeds give, on other starts?

    Trainings and starts are resampled independently of each other (the same starts for both arms where they are
    paired). Of the variance of the resampled means, the part of K trainings is too small by (K - 1) / K, and that of
    their interaction with starts is three times too large; both are corrected. The standard deviation is multiplied by
    Student's t with the Welch-Satterthwaite degrees of freedom, since few trainings know little about their variance.
    None where an arm has one training only, or where nothing varies.

    Source: A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2), 2007 (resampling of crossed
    factors, and its variance).
    """
    from scipy.special import stdtrit

    if min(len(a_KN), len(b_KN)) < 2 or a_KN.shape[1] < 2 or b_KN.shape[1] < 2:
        return None
    rng = np.random.default_rng(seed)
    starts_RN = rng.multinomial(a_KN.shape[1], np.full(a_KN.shape[1], 1 / a_KN.shape[1]), RESAMPLES)
    others_RN = (
        starts_RN if paired else rng.multinomial(b_KN.shape[1], np.full(b_KN.shape[1], 1 / b_KN.shape[1]), RESAMPLES)
    )
    means_R = _resampled(a_KN, starts_RN, rng) - _resampled(b_KN, others_RN, rng)
    arms, starts = (a_KN, b_KN), min(a_KN.shape[1], b_KN.shape[1])
    of_trainings = [float(np.var(np.nanmean(x, axis=1), ddof=1)) / len(x) for x in arms]
    spread = float(np.nanvar(means_R)) + sum(v / len(x) for v, x in zip(of_trainings, arms, strict=True))
    spread -= 2 * sum(_interaction(x) / x.size for x in arms)
    of_starts = max(0.0, spread - sum(of_trainings))
    spread = sum(of_trainings) + of_starts
    if spread == 0:
        return None
    uncertain = sum(v**2 / (len(x) - 1) for v, x in zip(of_trainings, arms, strict=True)) + of_starts**2 / (starts - 1)
    freedom = spread**2 / uncertain
    estimate = float(np.nanmean(a_KN) - np.nanmean(b_KN))
    half = float(stdtrit(min(freedom, 1e6), 0.5 + confidence / 2)) * math.sqrt(spread)
    return estimate - half, estimate + half


def _interaction(x_KN: np.ndarray) -> float:
    """Variance of what neither the training nor the start explains by itself."""
    rest_KN = x_KN - np.nanmean(x_KN, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        rest_KN = rest_KN - np.nanmean(rest_KN, axis=0, keepdims=True)
    return float(np.nansum(rest_KN**2)) / ((x_KN.shape[0] - 1) * (x_KN.shape[1] - 1))


def _resampled(x_KN: np.ndarray, starts_RN: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of resampled trainings and starts, (R,)."""
    seeds_RK = rng.multinomial(len(x_KN), np.full(len(x_KN), 1 / len(x_KN)), len(starts_RN))
    valid_KN = ~np.isnan(x_KN)
    total = ((seeds_RK @ np.nan_to_num(x_KN)) * starts_RN).sum(axis=1)
    count = ((seeds_RK @ valid_KN.astype(float)) * starts_RN).sum(axis=1)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
