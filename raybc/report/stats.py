"""Intervals for success rates: Wilson over episodes, Student's t over seeds. Mathematics only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a binomial proportion, p = successes / n and z = the normal quantile of the confidence:

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    It stays inside [0, 1] and keeps a width at 0/n and n/n, where p -+ z sqrt(p (1 - p) / n) collapses to a point.
    n = 0 says nothing: (0, 1).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (158), 1927, pp. 209-212.
    """
    _check_confidence(confidence)
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"wilson_interval: expected 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return low, high


def seed_interval(rates: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval for the mean success rate over training seeds, s = the sample standard deviation of the K rates:

        mean(rates) -+ t_{K-1} s / sqrt(K), clipped to [0, 1]

    It answers another question than Wilson's: how much the rate moves when the same recipe is trained again. One
    seed cannot tell: None. Nor can seeds that agree exactly (usually at 0 or 1), whose interval would have no width.

    Source: "Student" (W. S. Gosset), "The probable error of a mean", Biometrika 6 (1), 1908, pp. 1-25.
    """
    _check_confidence(confidence)
    if len(set(rates)) < 2:
        return None
    mean = fmean(rates)
    half = t_quantile(0.5 + confidence / 2, len(rates) - 1) * stdev(rates) / math.sqrt(len(rates))
    return max(0.0, mean - half), min(1.0, mean + half)


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) of Student's t with df degrees of freedom: 1 - I_x(df / 2, 1 / 2) / 2 with x = df / (df + t^2), t >= 0.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.1 and 26.5.27.
    """
    tail = regularised_beta(df / 2, 0.5, df / (df + t * t)) / 2
    return 1 - tail if t >= 0 else tail


def t_quantile(p: float, df: float) -> float:
    """The t with t_cdf(t, df) = p, by bisection of the CDF until the doubles meet."""
    if not 0 < p < 1 or df <= 0:
        raise ValueError(f"t_quantile: expected 0 < p < 1 and df > 0, got p={p}, df={df}")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, 2 * high
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if t_cdf(middle, df) < p:
            low = middle
        else:
            high = middle


def regularised_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, by its continued fraction (modified Lentz).

    Source: Abramowitz and Stegun 26.5.8; evaluated as in Press et al., Numerical Recipes, 3rd ed., section 6.4.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - regularised_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1 / _away_from_zero(1 + coefficient * d, tiny)
            c = _away_from_zero(1 + coefficient / c, tiny)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            return front * fraction
    raise ArithmeticError(f"regularised_beta({a}, {b}, {x}) did not converge")


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1 such as 0.95, got {confidence}")
