"""Intervals: Wilson for rates, Student's t for means over episodes or seeds; how many episodes they take.

Mathematics only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from raybc.types import UserError


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


#: Share of the episodes that may end in errors in a result that is quoted.
ERRORS_ALLOWED = 0.05


def too_many_errors(errors: int, total: int) -> bool:
    """Whether more than `ERRORS_ALLOWED` of all `total` episodes ended in errors."""
    return errors > ERRORS_ALLOWED * total


def bounds_with_errors(
    mean: float, valid: int, errors: int, worst: float = 0.0, best: float = 1.0
) -> tuple[float, float]:
    """The lowest and the highest mean over all episodes, if every error counted as `worst` or as `best`.

    mean: over the `valid` episodes, without the errors (ignored if there are none). Success: worst 0, best 1. An
    episode that could not be run says nothing about the policy, so a rate leaves it out; but whoever is compared by the
    rate must not profit from that: the lower bound is what rankings use.
    """
    if valid < 0 or errors < 0:
        raise ValueError(f"bounds_with_errors: expected counts of at least 0, got {valid} and {errors}")
    total = valid + errors
    if not total:
        return worst, best
    share = errors / total
    known = mean * (1 - share) if valid else 0.0
    return known + worst * share, known + best * share


def halfwidth_reached(
    outcomes_N: Sequence[bool], halfwidth: float, *, minimum: int = 20, every: int = 1, confidence: float = 0.95
) -> int | None:
    """The number of episodes after which the rate is known well enough; None if these do not suffice.

    outcomes_N: (N,) success of the valid episodes in the order of their starts. The smallest n, a multiple of `every`
    and at least `minimum`, at which the Wilson interval of the first n is not wider than -+ halfwidth. It depends on
    the outcomes in the order of the starts alone, so it is the same for any number of workers, and outcomes after it
    change nothing. `most_starts` says how many it can be at most.

    A stop that looks at the data may harm an interval. This one hardly does: coverage of the 95 % interval in % (and
    the mean number of episodes) with the defaults, exact, from the distribution of the count of successes step by step;
    rule and interval are symmetric in success and failure. "worst" and "mean" run over p = 0.02, 0.021, .. 0.98, in
    brackets for exactly `most_starts` episodes without a stop:

        halfwidth   p .02, .98   .1, .9       .3, .7       .5           worst        mean
        0.03        97.6 (103)   94.7 (379)   94.9 (892)   94.7 (1063)  93.1 [94.2]  95.1 [95.0]
        0.05        97.9  (48)   94.5 (132)   94.6 (319)   95.0  (380)  93.2 [93.7]  95.2 [95.0]
        0.10        98.0  (22)   98.0  (35)   94.2  (76)   94.4   (92)  93.0 [92.8]  95.3 [95.1]

    For rates within 0.02 of 0 or 1 it falls to 86 % (89 % for halfwidths 0.03 and 0.05) at the worst rate. That is
    Wilson's interval at small counts and not the stop: exactly `most_starts` episodes fall to 84 % there.
    """
    _check_halfwidth(halfwidth, minimum, every, confidence)
    successes = 0
    for n, success in enumerate(outcomes_N, start=1):
        successes += bool(success)
        if n >= minimum and n % every == 0:
            low, high = wilson_interval(successes, n, confidence)
            if high - low <= 2 * halfwidth:
                return n
    return None


def most_starts(halfwidth: float, *, minimum: int = 20, every: int = 1, confidence: float = 0.95) -> int:
    """The number of episodes that reaches the half width whatever the outcomes are: an upper bound of the above.

    The Wilson interval is widest at p = 1/2, where its half width is z / (2 sqrt(n + z^2)). So
    n >= z^2 / (4 halfwidth^2) - z^2, and then up to `minimum` and to a multiple of `every`.
    """
    _check_halfwidth(halfwidth, minimum, every, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    n = max(minimum, 1, math.ceil(z * z / (4 * halfwidth * halfwidth) - z * z))
    return math.ceil(n / every) * every


def seed_interval(
    values: Sequence[float], confidence: float = 0.95, bounds: tuple[float, float] | None = (0.0, 1.0)
) -> tuple[float, float] | None:
    """Interval for the mean over training seeds, s = the sample standard deviation of the K values (success rates
    unless `bounds` says otherwise):

        mean(values) -+ t_{K-1} s / sqrt(K), clipped to the bounds

    It answers another question than Wilson's: how much the mean moves when the same recipe is trained again. One
    seed cannot tell: None. Nor can seeds that agree exactly (usually at 0 or 1), whose interval would have no width.

    Source: "Student" (W. S. Gosset), "The probable error of a mean", Biometrika 6 (1), 1908, pp. 1-25.
    """
    _check_confidence(confidence)
    if len(set(values)) < 2:
        return None
    return mean_interval(fmean(values), stdev(values), len(values), bounds, confidence)


def mean_interval(
    mean: float | None,
    spread: float | None,
    n: int,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Student's t interval of a mean: mean -+ t_{n-1} s / sqrt(n), clipped to `bounds` where they are known.

    None where the data do not say: fewer than two values, or values that agree exactly, whose interval would have no
    width. It is exact for normal values. For skewed ones it is good at the tens of episodes that are usual here.

    Args:
        mean: of the values; None without any.
        spread: s, their sample standard deviation.
        n: their number.
        bounds: lowest and highest possible value.
        confidence: the share of intervals that contain the true mean.

    Source: see `seed_interval`.
    """
    _check_confidence(confidence)
    if mean is None or not spread or n < 2:
        return None
    from scipy.special import stdtrit  # not at the top: it costs 0.2 s, and most only need Wilson intervals

    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread / math.sqrt(n)
    low, high = bounds or (-math.inf, math.inf)
    return max(low, mean - half), min(high, mean + half)


def stratified_rate_interval(counts: Sequence[tuple[int, int]], confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean of the success rates of K tasks (strata) that count equally, p_k = y_k / n_k:

        c -+ z sqrt(sum_k q_k (1 - q_k) / (n_k + 4/K)) / K,   q_k = (y_k + 2/K) / (n_k + 4/K),   c = mean of q_k

    clipped to [0, 1]: Price and Bonett's adjusted Wald interval of a linear function of proportions. Two successes and
    two failures are added, shared by the tasks, so that it keeps a width where every task is solved always or never
    (at 95 % and K = 1 it is Agresti and Coull's, close to Wilson's). Rates that differ between tasks make it narrower
    than Wilson's interval of all episodes together, which treats them as draws from one rate. Coverage at 95 %, by
    simulation over equal, spread and extreme rates: at least 93 % in nearly all cases from 20 episodes per task on, and
    89 % in the worst case of 10 tasks with 10 episodes each (nine of rate 0.99, one of 0.3).

    counts: (successes y_k, episodes n_k) of each task. None if a task has no episode: its rate is unknown.

    Source: R. M. Price and D. G. Bonett, "An improved confidence interval for a linear function of binomial
    proportions", Computational Statistics & Data Analysis 45 (3), 2004, pp. 449-456.
    """
    _check_confidence(confidence)
    if not counts or any(n < 1 for _, n in counts):
        return None
    tasks = len(counts)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    sizes = [n + 4 / tasks for _, n in counts]
    rates = [(solved + 2 / tasks) / size for (solved, _), size in zip(counts, sizes, strict=True)]
    half = z * math.sqrt(sum(q * (1 - q) / size for q, size in zip(rates, sizes, strict=True))) / tasks
    return max(0.0, fmean(rates) - half), min(1.0, fmean(rates) + half)


def stratified_mean_interval(
    strata: Sequence[tuple[float | None, float | None, int]],
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Interval of the mean over K tasks (strata) that count equally, from (mean, standard deviation s, n) of each:

        mean of means -+ t_v sqrt(sum_k g_k) / K,   g_k = s_k^2 / n_k,   v = (sum_k g_k)^2 / sum_k g_k^2 / (n_k - 1)

    clipped to `bounds`; v are Satterthwaite's degrees of freedom. None where the data do not say: a task with fewer
    than two values, or values that agree exactly within every task.

    Source: W. G. Cochran, "Sampling techniques", 3rd edition, 1977, equations 5.15 and 5.16.
    """
    _check_confidence(confidence)
    known = [(mean, spread, n) for mean, spread, n in strata if mean is not None and spread is not None and n > 1]
    if not known or len(known) < len(strata):
        return None
    variances = [spread**2 / n for _, spread, n in known]
    total = sum(variances)
    if not total:
        return None
    from scipy.special import stdtrit  # as above

    freedom = total**2 / sum(g**2 / (n - 1) for g, (_, _, n) in zip(variances, known, strict=True))
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(total) / len(known)
    centre = fmean(mean for mean, _, _ in known)
    low, high = bounds or (-math.inf, math.inf)
    return max(low, centre - half), min(high, centre + half)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1 such as 0.95, got {confidence}")


def _check_halfwidth(halfwidth: float, minimum: int, every: int, confidence: float) -> None:
    _check_confidence(confidence)
    if not 0 < halfwidth < 0.5:
        raise UserError(f"halfwidth: expected a number between 0 and 0.5 such as 0.05 (5 points), got {halfwidth}")
    if minimum < 1 or every < 1:
        raise UserError(f"halfwidth: expected minimum >= 1 and every >= 1, got minimum={minimum}, every={every}")
