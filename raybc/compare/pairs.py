"""Two arms measured on a fixed number of starts: tests and intervals of a difference. Mathematics only.

Paired: both arms ran on the same n starts. Of these `only_a` were solved by A alone and `only_b` by B alone; the
difference of the rates is (only_a - only_b) / n, and the other starts say nothing about which arm is better.
Unpaired: the arms ran on different starts.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np

from raybc.statistics import wilson_interval

Interval = tuple[float, float]
#: Arms with more episodes in all than this are compared by Fisher's test, since Boschloo's takes minutes there.
MOST_FOR_BOSCHLOO = 400


def mcnemar(only_a: int, only_b: int) -> tuple[float, float]:
    """p-values of "A is not better" and of "B is not better": exact McNemar, one-sided, given the only_a + only_b
    starts on which the arms differ:

        P(X >= only_a)  and  P(X >= only_b),   X ~ Binomial(only_a + only_b, 1/2)

    The two-sided p-value is min(1, twice the smaller one).

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (2), 1947.
    """
    from scipy.stats import binom  # not at the top: it costs most of a second

    n = only_a + only_b
    return float(binom.sf(only_a - 1, n, 0.5)), float(binom.sf(only_b - 1, n, 0.5))


def two_sided(p_values: tuple[float, float]) -> float:
    """min(1, 2 min(p)): each direction is tested at half of the level."""
    return min(1.0, 2 * min(p_values))


def tango_interval(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of the paired difference of two rates: all d with |T(d)| <= z, where

        T(d) = (only_a - only_b - n d) / sqrt(n (2 q(d) + d (1 - d)))

    and q(d) is the most likely probability of "B alone" if the difference is d: the larger root of 2n q^2 + B q + C,
    B = -only_a - only_b + (2n - only_a + only_b) d, C = -only_b d (1 - d).

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (8), 1998, pp. 891-908.
    """
    from scipy.optimize import brentq

    if not (only_a >= 0 and only_b >= 0 and only_a + only_b <= n):
        raise ValueError(f"tango_interval: expected counts of at most n in all, got {only_a}, {only_b}, n={n}")
    if n == 0:
        return -1.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    estimate = (only_a - only_b) / n

    def gap(d: float) -> float:
        """T(d)^2 - z^2 without its denominator, which vanishes at the ends."""
        b = -only_a - only_b + (2 * n - only_a + only_b) * d
        c = -only_b * d * (1 - d)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        return (only_a - only_b - n * d) ** 2 - z * z * n * max(2 * q + d * (1 - d), 0.0)

    near = 1e-9  # beside the estimate, where the gap is negative; at the estimate it may have another root
    low = -1.0 if only_b == n else float(brentq(gap, -1.0, estimate - near, xtol=1e-12))
    high = 1.0 if only_a == n else float(brentq(gap, estimate + near, 1.0, xtol=1e-12))
    return low, high


def newcombe_interval(a: int, n_a: int, b: int, n_b: int, confidence: float = 0.95) -> Interval:
    """Interval of the unpaired difference a / n_a - b / n_b from the Wilson intervals of both rates (hybrid score):

        low = d - sqrt((p_a - low_a)^2 + (high_b - p_b)^2),  high = d + sqrt((high_a - p_a)^2 + (p_b - low_b)^2)

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of
    eleven methods", Statistics in Medicine 17 (8), 1998, pp. 873-890, method 10.
    """
    if n_a == 0 or n_b == 0:
        return -1.0, 1.0
    p_a, p_b = a / n_a, b / n_b
    low_a, high_a = wilson_interval(a, n_a, confidence)
    low_b, high_b = wilson_interval(b, n_b, confidence)
    return (
        p_a - p_b - math.hypot(p_a - low_a, high_b - p_b),
        p_a - p_b + math.hypot(high_a - p_a, p_b - low_b),
    )


@functools.lru_cache(maxsize=256)
def unpaired_test(a: int, n_a: int, b: int, n_b: int) -> tuple[float, float]:
    """p-values of "A is not better" and of "B is not better" for a of n_a and b of n_b solved starts: Boschloo's exact
    test, or Fisher's (more cautious) from `MOST_FOR_BOSCHLOO` episodes on.

    Source: R. D. Boschloo, "Raised conditional level of significance for the 2 x 2-table when testing the equality of
    two probabilities", Statistica Neerlandica 24 (1), 1970.
    """
    from scipy.stats import boschloo_exact, fisher_exact

    if n_a == 0 or n_b == 0 or a + b in (0, n_a + n_b):
        return 1.0, 1.0
    test = boschloo_exact if n_a + n_b <= MOST_FOR_BOSCHLOO else fisher_exact
    table = [[a, b], [n_a - a, n_b - b]]
    return tuple(min(1.0, float(test(table, alternative=side).pvalue)) for side in ("greater", "less"))  # type: ignore[return-value]


def mean_test(
    a_N: np.ndarray, b_N: np.ndarray, *, paired: bool, confidence: float = 0.95
) -> tuple[tuple[float, float], Interval | None]:
    """p-values of "A's mean is not higher" and "B's mean is not higher", and the interval of mean(a) - mean(b), by
    Student's t (paired) or Welch's (unpaired). Approximate: good at the tens of episodes that are usual here. No
    interval, and p = 1, where there are fewer than two values or where they do not vary.

    Source: B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved", Biometrika 34 (1-2), 1947.
    """
    from scipy.stats import ttest_ind, ttest_rel

    if min(len(a_N), len(b_N)) < 2:
        return (1.0, 1.0), None
    constant = np.ptp(a_N - b_N) == 0 if paired else np.ptp(a_N) == 0 and np.ptp(b_N) == 0
    if constant:
        return (1.0, 1.0), None
    found = [
        ttest_rel(a_N, b_N, alternative=side) if paired else ttest_ind(a_N, b_N, equal_var=False, alternative=side)
        for side in ("greater", "less", "two-sided")
    ]
    low, high = found[2].confidence_interval(confidence)
    return (float(found[0].pvalue), float(found[1].pvalue)), (float(low), float(high))
