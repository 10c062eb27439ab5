"""Two arms on the same starts, looked at after every start: tests that may stop at any time. Mathematics only.

d_i = x_{a,i} - x_{b,i} in [-1, 1] is the difference on start i. The claim "A is not better", E[d] <= 0, is tested by
betting against it, as races do (`raybc.rollout.race`, with the sources): the wealth

    E_n = mean over lambda of  prod_{i <= n} (1 + lambda d_i)

has expectation at most 1 under the claim at every n, so it reaches 1 / level with probability at most the level,
whenever one looks (Ville). This holds for any bounded score and any number of starts: the rule `open`.

If the outcome is success and at most N starts will be run, more is known. Starts on which both arms do the same change
nothing, and under the claim those on which they differ are won by A with probability at most 1/2, one after another. So

    p(e) = P(max over the first N fair coin tosses of E >= e)

is an exact p-value for e, the largest E so far, however often one has looked: the rule `sequential`. It is a sum over
the paths of a random walk. At N = 100 and level .05 (two-sided) E must reach 26 instead of 40. More than N starts
void it.

Each direction has a p-value of its own; the two-sided one is twice the smaller. An error of an arm leaves the start out
of the claim against it and counts as its worst outcome in the claim for it, so nobody gains by crashing.

Letters: N starts in their order; nan is an error.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from raybc.rollout.race import log_e_values

Interval = tuple[float, float]
#: Sums over paths take seconds up to here; for more starts p-values of the open rule are used, which are larger.
LONGEST_WALK = 3000
#: For intervals, whose bounds need large bets against far values and small ones against near values.
_ALL_BETS = (0.08, 0.2, 0.45, 0.7, 0.95)


@functools.cache
def bets_for(starts: int) -> tuple[float, ...]:
    """Fractions of the wealth to bet if about `starts` starts are planned: 2.5 / sqrt(starts), doubled while below .95.

    The best bet on a difference that takes n starts to find is about sqrt(2 log(1 / level) / n), and the larger ones
    find a larger difference early.
    """
    bet = min(0.9, 2.5 / math.sqrt(max(starts, 1)))
    bets = []
    while bet < 0.95:
        bets.append(bet)
        bet *= 2
    return tuple(bets)


def differences(a_N: np.ndarray, b_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(for "A is better", for "B is better"): differences on the scores' scale 0 .. 1 with errors counted against the
    arm that would profit; nan where the start is left out. a_N, b_N: scores in [0, 1], nan for an error."""
    return np.nan_to_num(a_N, nan=0.0) - b_N, np.nan_to_num(b_N, nan=0.0) - a_N


def largest(difference_N: np.ndarray, bets: tuple[float, ...]) -> float:
    """log of the largest E so far; 0 (no wealth was won) at least."""
    return max(0.0, float(np.max(log_e_values(difference_N, bets), initial=0.0)))


def first_above(difference_N: np.ndarray, log_threshold: float, bets: tuple[float, ...]) -> int | None:
    """The number of starts after which E first reaches the threshold; None if it does not."""
    hits = np.flatnonzero(log_e_values(difference_N, bets) >= log_threshold - 1e-12)
    return int(hits[0]) + 1 if len(hits) else None


def open_p_value(log_e: float) -> float:
    """One-sided p-value of the largest E so far, valid for any number of starts: 1 / E."""
    return math.exp(-max(log_e, 0.0))


def walk_p_value(log_e: float, starts: int, bets: tuple[float, ...]) -> float:
    """One-sided p-value of the largest E so far if at most `starts` starts are run: p(e), see the head of this file."""
    if log_e <= 1e-12:
        return 1.0
    if starts > LONGEST_WALK:
        return open_p_value(log_e)
    return _crossing(round(log_e - 1e-9, 9), starts, bets)


@functools.lru_cache(maxsize=4096)
def _crossing(log_e: float, starts: int, bets: tuple[float, ...]) -> float:
    return float(first_crossings(log_e, starts, bets, 0.5).sum())


def first_crossings(log_e: float, tosses: int, bets: tuple[float, ...], chance: float) -> np.ndarray:
    """P(E first reaches the threshold at toss m), m = 1 .. tosses, where A wins a toss with probability `chance`.
    (tosses,) float64."""
    first_wins = boundary(log_e, tosses, bets)
    alive = np.zeros(tosses + 2)  # by the number of wins
    alive[0] = 1.0
    found = np.zeros(tosses)
    for m in range(1, tosses + 1):
        alive[1 : m + 1] = chance * alive[:m] + (1 - chance) * alive[1 : m + 1]
        alive[0] *= 1 - chance
        found[m - 1] = alive[first_wins[m - 1] : m + 1].sum()
        alive[first_wins[m - 1] : m + 1] = 0.0
    return found


@functools.lru_cache(maxsize=512)
def boundary(log_e: float, tosses: int, bets: tuple[float, ...]) -> np.ndarray:
    """The least number of wins among m tosses at which E reaches the threshold, m = 1 .. tosses; m + 1: none does."""
    lam = np.array(bets)[:, None]
    m = np.arange(1, tosses + 1)
    low, high = np.zeros(tosses, np.int64), m + 1  # E grows with the wins: bisection for all m at once
    while np.any(low < high):
        middle = (low + high) // 2
        logs = middle * np.log1p(lam) + (m - middle) * np.log1p(-lam)
        top = logs.max(axis=0)
        enough = top + np.log(np.mean(np.exp(logs - top), axis=0)) >= log_e - 1e-12
        open_ = low < high
        high = np.where(open_ & enough, middle, high)
        low = np.where(open_ & ~enough, middle + 1, low)
    return np.minimum(low, m + 1)


@functools.cache
def log_threshold(level: float, starts: int | None, bets: tuple[float, ...]) -> float:
    """log of the least E that rejects one direction at `level`. starts: the most that will be run; None: any number."""
    if starts is None or starts > LONGEST_WALK:
        return -math.log(level)
    low, high = 0.0, -math.log(level)  # the open threshold is always enough
    for _ in range(22):
        middle = (low + high) / 2
        if walk_p_value(middle, starts, bets) <= level:
            high = middle
        else:
            low = middle
    return high


def anytime_interval(
    a_N: np.ndarray, b_N: np.ndarray, confidence: float = 0.95, bets: tuple[float, ...] = _ALL_BETS
) -> Interval:
    """Interval of E[x_a - x_b] that holds at all numbers of starts together, so also where a test stopped early.

    It has every m that cannot be rejected, where (d - m) / (1 + |m|) is bet on as above, each side at half of
    1 - confidence. Errors are left out on the side of the arm with the error and count as its worst on the other.

    Source: I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (1),
    2024 (confidence sequences from bets).
    """
    needed = math.log(2 / (1 - confidence))
    for_a, for_b = differences(a_N, b_N)

    def rejected(difference_N: np.ndarray, m: float) -> bool:
        """Whether "the mean is at most m" is rejected."""
        return largest((difference_N - m) / (1 + abs(m)), bets) >= needed

    def highest_rejected(difference_N: np.ndarray) -> float:
        if not rejected(difference_N, -1.0):
            return -1.0
        low, high = -1.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            if rejected(difference_N, middle):
                low = middle
            else:
                high = middle
        return low

    return highest_rejected(for_a), -highest_rejected(for_b)
