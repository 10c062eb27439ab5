"""How many starts does it take to tell two success rates apart? Mathematics only.

What counts is how often the arms differ: P(only A solves a start) and P(only B does). They follow from the two rates
and the correlation of the outcomes: policies that fail on the same starts differ on fewer, and so need fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from raybc.compare.sequential import bets_for, first_crossings, log_threshold

Rule = Literal["sequential", "open", "fixed"]
RULES: tuple[Rule, ...] = get_args(Rule)
#: No plan has more starts: sums over paths take long, and hardly anybody runs as many.
MOST_STARTS = 3000


@dataclass(frozen=True)
class Plan:
    """What a rule does at given rates."""

    rule: Rule
    starts: int
    """The most that are run."""
    power: float
    """Probability that the better arm is found to be better."""
    mean_starts: float
    """Mean number of starts until the end."""


def only_one(rate_a: float, rate_b: float, correlation: float = 0.0) -> tuple[float, float]:
    """(P(only A solves a start), P(only B does)). Raises `ValueError` for an impossible correlation."""
    both = rate_a * rate_b + correlation * math.sqrt(rate_a * (1 - rate_a) * rate_b * (1 - rate_b))
    only_a, only_b = rate_a - both, rate_b - both
    if not (both >= 0 and min(only_a, only_b) >= -1e-12 and both + only_a + only_b <= 1 + 1e-12):
        raise ValueError(f"rates {rate_a:g} and {rate_b:g} cannot have a correlation of {correlation:g}")
    return max(only_a, 0.0), max(only_b, 0.0)


def plan(rule: Rule, starts: int, only_a: float, only_b: float, level: float = 0.05) -> Plan:
    """Power and mean number of starts of `rule` with at most `starts` starts; exact. A is the better arm."""
    if rule == "fixed" or only_a + only_b == 0:
        return Plan(rule, starts, power_of(rule, starts, only_a, only_b, level), float(starts))
    from scipy.stats import binom

    differ = only_a + only_b
    wins, losses = _ends(rule, starts, only_a / differ, level)
    # E[min(T, N)] = sum over n < N of P(T > n), where T is the start at which the m-th difference occurs.
    ends = wins + losses
    used = np.flatnonzero(ends > 1e-9)
    until = np.array([binom.cdf(m, np.arange(starts), differ).sum() for m in used])
    mean = float(ends[used] @ until + (1 - ends[used].sum()) * starts)
    return Plan(rule, starts, power_of(rule, starts, only_a, only_b, level), mean)


def power_of(rule: Rule, starts: int, only_a: float, only_b: float, level: float = 0.05) -> float:
    """Probability that `rule` finds A to be better within `starts` starts; exact."""
    from scipy.stats import binom

    differ = only_a + only_b
    if differ == 0:
        return 0.0
    if rule == "fixed":  # the sum over the number m of starts that differ
        m = np.arange(starts + 1)
        needed = binom.isf(level / 2, m, 0.5).astype(int) + 1  # the least wins with P(X >= wins) <= level / 2
        return float(binom.pmf(m, starts, differ) @ binom.sf(needed - 1, m, only_a / differ))
    wins, _ = _ends(rule, starts, only_a / differ, level)
    return float(wins @ binom.sf(np.arange(starts), starts, differ))  # at least m starts differ


def _ends(rule: Rule, starts: int, chance: float, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that A, and that B, is found to be better at the m-th start that differs, m = 1 .. starts, each as
    if the other were never found."""
    bets = bets_for(starts)
    threshold = log_threshold(level / 2, starts if rule == "sequential" else None, bets)
    return tuple(first_crossings(threshold, starts, bets, p) for p in (chance, 1 - chance))  # type: ignore[return-value]


def starts_for(
    rule: Rule, only_a: float, only_b: float, level: float = 0.05, power: float = 0.8, most: int = MOST_STARTS
) -> Plan | None:
    """The plan with the fewest starts that has the power; None if more than `most` starts would be needed."""
    if only_a <= only_b:
        return None

    def is_enough(starts: int) -> bool:
        return power_of(rule, starts, only_a, only_b, level) >= power

    high = 8
    while not is_enough(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    return plan(rule, _bisect(is_enough, high // 2, high), only_a, only_b, level)


def _bisect(enough: Callable[[int], bool], low: int, high: int) -> int:
    """The least n in (low, high] that is enough; `high` is. Power has small dips, which do not matter here."""
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def table(rate_a: float, rate_b: float, correlation: float, level: float, powers: Sequence[float]) -> list[list[Plan]]:
    """Plans of every rule for each power; a rule is missing where it would need more than `MOST_STARTS` starts."""
    only_a, only_b = only_one(max(rate_a, rate_b), min(rate_a, rate_b), correlation)
    found = [[starts_for(rule, only_a, only_b, level, power) for rule in RULES] for power in powers]
    return [[p for p in row if p is not None] for row in found]
