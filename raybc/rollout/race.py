"""Racing: which arms (recipes, checkpoints, sample settings) need no more episodes? Mathematics only.

All arms are measured on the same starts in the same order. x_{a,i} in [0, 1] is what arm a did on start i: success
0 or 1, or another score on the scale from its lowest to its highest possible value, or the mean of the seeds of a
recipe there. The claim "a is at least as good as b", E[x_a - x_b] >= 0,
is tested by betting against it:

    E_n(a vs b) = mean over lambda in BETS of  prod_{i <= n} (1 + lambda (x_{b,i} - x_{a,i}))

Starts are independent draws, so under the claim every factor has expectation at most 1, and is positive: E_n is a
nonnegative supermartingale that begins at 1, and by Ville's inequality P(exists n: E_n >= 1 / delta) <= delta. Hence
one may test after every start and stop at any time. A start that both solve or both miss multiplies by 1: when
the starts decide much of the outcome, pairing leaves mostly the difference between the arms.

Arm a is dropped once E_n(a vs b) >= comparisons / alpha for some b. At most `comparisons` tests can drop the best arm,
each wrong with probability at most alpha / comparisons, so it is dropped with probability at most alpha, for any number
of other arms and any dependence between them.

Scores other than success race on the scale (x - low) / (high - low), where the bounds of an episode's score are known
(`Task.reward_range`). Where they are not, there is no racing: no test of a mean with a guaranteed level has any power
over all distributions (Bahadur and Savage 1956), and a test of ranks or signs would drop the arm with the higher mean
where the distributions differ in shape, so its guarantee is another one than that of the ranking.

Several tasks. Starts of K tasks take turns, and the claim is about the mean over tasks. Within a round of K starts the
expected differences d_k may have either sign, so E_n is no supermartingale from start to start. From round to round it
is: prod_k (1 + lambda d_k) <= (1 + lambda mean(d))^K <= 1, by the inequality of arithmetic and geometric means. So E_n
is looked at only after whole rounds, and an error of arm a leaves its whole round out.

Sources: R. R. Bahadur and L. J. Savage, "The nonexistence of certain statistical procedures in nonparametric
problems", Annals of Mathematical Statistics 27 (4), 1956; J. Ville, "Etude critique de la notion de collectif", 1939;
H. Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of Mathematical Statistics 41
(5), 1970 (mixtures); I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B
86 (1), 2024; A. Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38
(4), 2023.

Letters: N starts in their order. Arrays of different lengths belong to arms that were measured on different numbers of
starts, always the first ones; nan is an error of the simulator there. An error of arm a leaves the start out of the
pair; one of arm b counts as x_b = 0, which only makes it harder to drop a: nobody gains by crashing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raybc.types import UserError

#: Fractions of the wealth that are bet, in equal shares. A difference that always has the same sign is found fastest
#: by the largest, one that wins 60 % of the discordant starts by the smallest. None is 1: one start on which b is worse
#: would end that bet for ever.
BETS: tuple[float, ...] = (0.2, 0.45, 0.7, 0.95)

#: Why arms do not race on some metrics.
NO_RACE = "the range of an episode's score is unknown, and then no test of means can keep its guarantee"

#: Outcomes of one arm on the starts 0, 1, .. in [0, 1]; nan = error.
Outcomes = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Domination:
    """Why an arm was dropped: which other arm is better, after how many starts, with which e-value."""

    by: str
    starts: int
    """Number of starts up to and including the one at which the threshold was passed."""
    pairs: int
    """Those of them on which both arms have an outcome."""
    e_value: float
    """At that start."""

    def __str__(self) -> str:
        return f"{self.by} is better (e-value {self.e_value:.4g} after {self.starts} starts)"


def log_e_values(differences_N: Outcomes, bets: Sequence[float] = BETS) -> np.ndarray:
    """log E_n for n = 1 .. N from the differences x_b - x_a in [-1, 1]; large where b is better. (N,) float64.

    bets: fractions of the wealth, in equal shares. Leading axes are kept: (..., N) -> (..., N). nan leaves E unchanged.
    Logarithms, because 1.95^1100 overflows.
    """
    differences = np.asarray(differences_N, dtype=np.float64)
    if differences.ndim < 1 or bool(np.any(np.abs(differences) > 1)):  # nan compares as False
        raise ValueError("log_e_values: expected an array of differences between -1 and 1")
    differences = np.where(np.isnan(differences), 0.0, differences)
    logs = np.stack([np.cumsum(np.log1p(bet * differences), axis=-1) for bet in bets])
    top = logs.max(axis=0)
    return top + np.log(np.mean(np.exp(logs - top), axis=0))


def first_domination(
    arm_N: Outcomes, others: Mapping[str, Outcomes], *, comparisons: int, alpha: float = 0.05, strata: int = 1
) -> Domination | None:
    """The earliest start at which one of the others is shown to be better than the arm; None if none is.

    comparisons: the maximum number of tests in which any one arm can be dropped: (arms - 1) x the number of evaluations
    at which arms race. It is fixed before the first episode and includes arms that will be added later.

    Other arms may have been dropped or have finished: their outcomes count on the starts on which they were measured.
    Pass outcomes of complete blocks of starts only, never of the episodes that happen to have ended: successful ones
    end early. If several arms dominate at the same start, the one with the largest e-value is named, then the first.
    strata: number of tasks, whose starts take turns.
    """
    threshold = _log_threshold(comparisons, alpha, len(others))
    arm = _checked("the arm being measured", arm_N)
    return _first(arm, {name: _checked(name, outcomes) for name, outcomes in others.items()}, threshold, strata)


def dominated(
    values: Mapping[str, Outcomes], *, comparisons: int, alpha: float = 0.05, strata: int = 1
) -> dict[str, Domination]:
    """The arms that may be dropped, each with the reason, in the order of `values`.

    Call it after every block of starts, with the outcomes of *all* arms of the race: arms dropped earlier keep the
    outcomes they have and are returned again, with the same reason. comparisons, complete blocks, strata: see
    `first_domination`.

    One arm always stays: if the tests would drop all of them, the last one to be dropped is kept (of several the one
    with the highest mean, then the first). This only prevents drops, so the guarantee holds.
    """
    threshold = _log_threshold(comparisons, alpha, len(values) - 1)
    arms = {name: _checked(name, outcomes) for name, outcomes in values.items()}
    found: dict[str, Domination] = {}
    for name, arm in arms.items():
        reason = _first(arm, {other: x for other, x in arms.items() if other != name}, threshold, strata)
        if reason is not None:
            found[name] = reason
    if found and len(found) == len(arms):
        del found[max(found, key=lambda name: (found[name].starts, float(np.nanmean(arms[name]))))]
    return found


def _first(arm: np.ndarray, others: Mapping[str, np.ndarray], log_threshold: float, strata: int) -> Domination | None:
    best: tuple[int, float] | None = None  # (starts, -log e): the smallest wins, the first of equals stays
    reason: Domination | None = None
    for name, other in others.items():
        n = min(len(arm), len(other)) // strata * strata
        if n == 0:
            continue
        # An error of the other arm counts as its worst outcome: nobody is dropped for the sake of one that crashes.
        differences = np.nan_to_num(other[:n], nan=0.0) - arm[:n]
        if strata > 1:  # a round counts as a whole or not at all
            rounds = differences.reshape(-1, strata)
            rounds[np.isnan(rounds).any(axis=1)] = np.nan
        logs = log_e_values(differences)
        ends = np.arange(1, n + 1) % strata == 0
        hits = np.flatnonzero((logs >= log_threshold) & ends)
        if not len(hits):
            continue
        at = int(hits[0])
        key = (at + 1, -float(logs[at]))
        if best is None or key < best:
            best = key
            pairs = int(np.sum(~np.isnan(differences[: at + 1])))
            reason = Domination(name, at + 1, pairs, math.exp(min(float(logs[at]), 700.0)))
    return reason


def _log_threshold(comparisons: int, alpha: float, at_least: int) -> float:
    if not 0 < alpha < 1:
        raise UserError(f"race: expected alpha between 0 and 1 such as 0.05, got {alpha}")
    if comparisons < max(1, at_least):
        raise UserError(
            f"race: expected comparisons >= {max(1, at_least)}, the number of other arms, got {comparisons}; "
            "give (arms - 1) x evaluations at which arms race, including arms that will be added later"
        )
    return math.log(comparisons / alpha)


def _checked(name: str, outcomes: Outcomes) -> np.ndarray:
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 1:
        raise UserError(f"race: expected a list of outcomes per start for {name}, got an array of shape {values.shape}")
    bad = np.flatnonzero((values < 0) | (values > 1))
    if len(bad):
        raise UserError(
            f"race: expected outcomes between 0 and 1 for {name}, got {values[bad[0]]} at start {bad[0]}; "
            "give success 0 or 1, or a mean success over seeds, and nan for an error"
        )
    return values
