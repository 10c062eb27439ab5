"""From scores to a verdict. No Ray, no files.

Letters: K trainings of an arm, N its starts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from raybc.compare import pairs, several
from raybc.compare.clusters import Cluster
from raybc.compare.design import Design, arm_scores
from raybc.compare.pairs import MOST_FOR_BOSCHLOO, Interval, two_sided
from raybc.compare.planning import MOST_STARTS, starts_for
from raybc.compare.sequential import anytime_interval, differences, largest, open_p_value, walk_p_value
from raybc.metric import Metric
from raybc.statistics import mean_interval, wilson_interval
from raybc.types import UserError

Verdict = Literal["better", "worse", "cannot tell"]
#: Exit status of the command.
STATUS: dict[Verdict, int] = {"better": 0, "worse": 1, "cannot tell": 3}
#: Planned numbers of starts up to here are exact; larger ones follow from that of one look at the end.
EXACT_PLAN = 400


@dataclass(frozen=True)
class Scores:
    """What an arm did."""

    name: str
    starts: tuple[str, ...]
    """A name for each start; starts of the same name are the same start."""
    values_KN: np.ndarray
    """Scores in the unit of the metric, one row for each training; nan for an error."""

    def on(self, starts: Sequence[str]) -> np.ndarray:
        """The columns of these starts."""
        place = {start: number for number, start in enumerate(self.starts)}
        return self.values_KN[:, [place[start] for start in starts]]


@dataclass(frozen=True)
class ArmSummary:
    """An arm by itself."""

    name: str
    starts: int
    trainings: int
    episodes: int
    """Valid ones."""
    errors: int
    mean: float | None
    interval: Interval | None
    solved: int | None
    """Of a rate."""


@dataclass(frozen=True)
class PairTable:
    """On how many starts both arms, one of them, or neither succeeded; without starts with an error."""

    both: int
    only_a: int
    only_b: int
    neither: int


@dataclass(frozen=True)
class PairResult:
    """A against B."""

    a: str
    b: str
    verdict: Verdict
    """Of A, at the level, corrected for the number of pairs."""
    paired: bool
    starts: int
    """Starts on which both have a score; unpaired: of both arms together."""
    difference: float | None
    """mean(A) - mean(B) on these starts, in the unit of the metric."""
    interval: Interval | None
    """At the confidence 1 - level, not corrected for several pairs."""
    interval_method: str
    test: str
    p: float
    """Two-sided."""
    p_adjusted: float
    """After Holm's correction for all pairs."""
    e_value: float | None
    """The larger of both directions; None with one look at the end."""
    table: PairTable | None
    improvement: float | None
    """P(A > B) + P(A = B) / 2."""
    trainings_interval: Interval | None
    """Over trainings and starts; None where an arm has one training only."""
    more_starts: int | None
    """About how many more starts would tell at the power; None: it can tell, or no useful number of starts would."""
    differing: tuple[str, ...] = ()
    """Starts on which the arms' scores differ."""
    means: tuple[float, float] | None = None
    """mean(A) and mean(B), whose difference is `difference`; those of an arm alone are over all its starts."""


@dataclass(frozen=True)
class TaskDifference:
    """A against B on the starts of one task."""

    a: str
    b: str
    difference: float | None
    """mean(A) - mean(B), in the unit of the metric; None without a valid start."""
    interval: Interval | None
    """As that of the whole comparison, not corrected for the number of tasks."""


@dataclass(frozen=True)
class TaskResult:
    """The arms on one task."""

    task: str
    arms: list[ArmSummary]
    differences: list[TaskDifference]


@dataclass(frozen=True)
class Comparison:
    """The result, about the first arm."""

    verdict: Verdict
    arms: list[ArmSummary]
    pairs: list[PairResult]
    best: list[str]
    """The arms that cannot be distinguished from the best."""
    notes: list[str] = field(default_factory=list)
    tasks: list[TaskResult] = field(default_factory=list)
    """The arms on each task, where there are several."""
    clusters: list[Cluster] = field(default_factory=list)
    """Where in the state space unsolved episodes end."""

    @property
    def status(self) -> int:
        return STATUS[self.verdict]

    def to_plain(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "status": self.status, "best": self.best, **_plain(asdict(self))}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: values[key]
        for key in ("arms", "pairs", "notes", *(name for name in ("tasks", "clusters") if values[name]))
    }


def compare(arms: Sequence[Scores], design: Design, notes: Sequence[str] = ()) -> Comparison:
    """Compare every pair of arms. Raises `UserError` where the rule does not fit the scores."""
    found = [compare_pair(a, b, design) for a, b in itertools.combinations(arms, 2)]
    adjusted = several.holm({(p.a, p.b): p.p for p in found})
    found = [_decided(pair, adjusted[pair.a, pair.b], design) for pair in found]
    worse = {arm.name: [_other(p, arm.name) for p in found if _is_worse(p, arm.name)] for arm in arms}
    first = arms[0].name
    mine = [p for p in found if first in (p.a, p.b)]
    verdict: Verdict = "cannot tell"
    if worse[first]:
        verdict = "worse"
    elif all(_is_worse(pair, _other(pair, first)) for pair in mine):
        verdict = "better"
    best = several.not_beaten([arm.name for arm in arms], worse)
    return Comparison(
        verdict, [summary(arm, design.metric, 1 - design.level) for arm in arms], found, best, list(notes)
    )


def _other(pair: PairResult, name: str) -> str:
    return pair.b if pair.a == name else pair.a


def _is_worse(pair: PairResult, name: str) -> bool:
    """Whether the pair shows that the arm is the worse one."""
    return (pair.a == name and pair.verdict == "worse") or (pair.b == name and pair.verdict == "better")


def summary(arm: Scores, metric: Metric, confidence: float) -> ArmSummary:
    values = arm.values_KN[~np.isnan(arm.values_KN)]
    mean = float(values.mean()) if len(values) else None
    solved = int(values.sum()) if metric.is_rate else None
    interval: Interval | None
    if solved is not None:
        interval = wilson_interval(solved, len(values), confidence) if len(values) else None
    else:
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        interval = mean_interval(mean, spread, len(values), metric.bounds, confidence)
    trainings, starts = arm.values_KN.shape
    return ArmSummary(
        arm.name, starts, trainings, len(values), int(np.isnan(arm.values_KN).sum()), mean, interval, solved
    )


# --- one pair ---------------------------------------------------------------------------------------------------------


def compare_pair(a: Scores, b: Scores, design: Design) -> PairResult:
    theirs = set(b.starts)
    common = [start for start in a.starts if start in theirs]
    a_KN, b_KN = (a.on(common), b.on(common)) if common else (a.values_KN, b.values_KN)
    a_N, b_N = arm_scores(a_KN), arm_scores(b_KN)
    for arm, scores in ((a, a_N), (b, b_N)):
        if np.all(np.isnan(scores)):
            raise UserError(f"{arm.name}: expected episodes with a result, got {len(scores)} that ended in errors")
    binary = design.metric.is_rate and len(a_KN) == len(b_KN) == 1
    if not common:
        if design.rule != "fixed":
            raise UserError(
                f"--rule {design.rule}: expected arms on the same starts, but {a.name} and {b.name} have none in "
                "common; use --rule fixed"
            )
        known = _unpaired(a_N, b_N, design, binary)
    elif design.rule == "fixed":
        known = _fixed(a_N, b_N, design, binary)
    else:
        known = _looked_at(a_N, b_N, design, binary)
    valid = ~(np.isnan(a_N) | np.isnan(b_N)) if common else np.zeros(0, bool)
    x, y = (a_N[valid], b_N[valid]) if common else (a_N[~np.isnan(a_N)], b_N[~np.isnan(b_N)])
    means = (float(x.mean()), float(y.mean())) if len(x) and len(y) else None
    table = None
    if common and binary:
        table = PairTable(*(int(np.sum(cell)) for cell in ((x > 0) & (y > 0), x > y, y > x, (x == 0) & (y == 0))))
    p_values, p, interval, method, test, e_value = known
    return PairResult(
        a=a.name,
        b=b.name,
        verdict="better" if p_values[0] <= p_values[1] else "worse",  # until `_decided`
        paired=bool(common),
        starts=int(valid.sum()) if common else len(x) + len(y),
        difference=means[0] - means[1] if means else None,
        means=means,
        interval=interval,
        interval_method=method,
        test=test,
        p=p,
        p_adjusted=p,
        e_value=e_value,
        table=table,
        improvement=several.improvement(a_KN, b_KN, paired=bool(common)),
        trainings_interval=several.another_training(a_KN, b_KN, paired=bool(common), confidence=1 - design.level),
        more_starts=_more(x, y, table, design) if common else None,
        differing=tuple(start for start, p, q in zip(common, a_N, b_N, strict=True) if p != q and not math.isnan(p + q))
        if common
        else (),
    )


#: p-values of both directions, the two-sided one, interval, its method, the test, e-value.
_Tested = tuple[tuple[float, float], float, Interval | None, str, str, float | None]


def _decided(pair: PairResult, adjusted: float, design: Design) -> PairResult:
    is_clear = adjusted <= design.level
    return replace(
        pair,
        p_adjusted=adjusted,
        verdict=pair.verdict if is_clear else "cannot tell",
        more_starts=None if is_clear else pair.more_starts,
    )


def _against(a_N: np.ndarray, metric: Metric) -> np.ndarray:
    """Scores of an arm in the claim that it is better: errors count as the worst, where that is known."""
    return a_N if metric.bounds is None else np.nan_to_num(a_N, nan=metric.bounds[0])


def _looked_at(a_N: np.ndarray, b_N: np.ndarray, design: Design, binary: bool) -> _Tested:
    scale = np.vectorize(design.metric.unit_value, otypes=[np.float64])
    a_N, b_N = scale(a_N), scale(b_N)
    logs = tuple(largest(d, design.bets) for d in differences(a_N, b_N))
    exact = design.most is not None and binary
    p_values = tuple(
        walk_p_value(log_e, design.starts, design.bets) if exact else open_p_value(log_e) for log_e in logs
    )
    assert design.metric.bounds is not None
    span = design.metric.bounds[1] - design.metric.bounds[0]
    low, high = anytime_interval(a_N, b_N, 1 - design.level)
    # The exact test may know the sign where the interval alone, which does not know the most starts, does not yet.
    if two_sided(p_values) <= design.level:  # type: ignore[arg-type]
        low, high = (max(low, 0.0), high) if logs[0] >= logs[1] else (low, min(high, 0.0))
    test = f"sequential exact test, at most {design.starts} starts" if exact else "anytime-valid test by betting"
    e_value = math.exp(min(max(logs), 700.0))
    return p_values, two_sided(p_values), (low * span, high * span), "confidence sequence", test, e_value  # type: ignore[return-value,arg-type]


def _fixed(a_N: np.ndarray, b_N: np.ndarray, design: Design, binary: bool) -> _Tested:
    """One look at paired scores."""
    if binary:
        for_a, for_b = differences(a_N, b_N)
        p_values = tuple(pairs.mcnemar(int(np.sum(d > 0)), int(np.sum(d < 0)))[0] for d in (for_a, for_b))
        d = (a_N - b_N)[~np.isnan(a_N - b_N)]
        interval = pairs.tango_interval(int(np.sum(d > 0)), int(np.sum(d < 0)), len(d), 1 - design.level)
        return p_values, two_sided(p_values), interval, "Tango", "exact McNemar test", None  # type: ignore[return-value,arg-type]
    p_values, interval_ = _means(a_N, b_N, design, paired=True)
    return p_values, two_sided(p_values), interval_, "Student's t", "paired t test", None


def _unpaired(a_N: np.ndarray, b_N: np.ndarray, design: Design, binary: bool) -> _Tested:
    if not binary:
        p_values, interval = _means(a_N, b_N, design, paired=False)
        return p_values, two_sided(p_values), interval, "Welch's t", "Welch's t test", None
    (a, n_a), (b, n_b) = ((int(np.nansum(x)), int(np.sum(~np.isnan(x)))) for x in (a_N, b_N))
    found = (pairs.unpaired_test(a, len(a_N), b, n_b)[0], pairs.unpaired_test(a, n_a, b, len(b_N))[1])
    test = "Boschloo's exact test" if len(a_N) + len(b_N) <= MOST_FOR_BOSCHLOO else "Fisher's exact test"
    return found, two_sided(found), pairs.newcombe_interval(a, n_a, b, n_b, 1 - design.level), "Newcombe", test, None


def _means(a_N: np.ndarray, b_N: np.ndarray, design: Design, *, paired: bool) -> tuple[
    tuple[float, float], Interval | None
]:  # fmt: skip
    def both(x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float], Interval | None]:
        if paired:
            valid = ~(np.isnan(x) | np.isnan(y))
            return pairs.mean_test(x[valid], y[valid], paired=True, confidence=1 - design.level)
        return pairs.mean_test(x[~np.isnan(x)], y[~np.isnan(y)], paired=False, confidence=1 - design.level)

    better = both(_against(a_N, design.metric), b_N)[0][0]
    worse = both(a_N, _against(b_N, design.metric))[0][1]
    return (better, worse), both(a_N, b_N)[1]


def _more(x_N: np.ndarray, y_N: np.ndarray, table: PairTable | None, design: Design) -> int | None:
    """About how many more starts would tell if the arms continue as so far; None if more than `MOST_STARTS`.

    `open` keeps the episodes it has; the other rules need a new comparison on new starts.
    """
    n = len(x_N)
    if not n:
        return None
    if table is not None:
        only_a, only_b = sorted(((table.only_a + 0.5) / (n + 1), (table.only_b + 0.5) / (n + 1)), reverse=True)
        total = _planned(lambda rule: starts_for(rule, only_a, only_b, design.level, design.power), design)  # type: ignore[arg-type]
    else:
        d = x_N - y_N
        if n < 2 or d.mean() == 0:
            return None
        z = NormalDist().inv_cdf(1 - design.level / 2) + NormalDist().inv_cdf(design.power)
        total = math.ceil((z * float(d.std(ddof=1)) / float(d.mean())) ** 2)
        total = math.ceil(total * (1.0 if design.rule == "fixed" else 1.5))
    if total is None or total > MOST_STARTS:
        return None
    total = max(total - n, 10) if design.rule == "open" else total
    digits = max(0, len(str(total)) - 2)  # about
    return math.ceil(total / 10**digits) * 10**digits


def _planned(plan_of: Callable[[str], Any], design: Design) -> int | None:
    fixed = plan_of("fixed")
    if fixed is None or design.rule == "fixed":
        return None if fixed is None else int(fixed.starts)
    if fixed.starts > EXACT_PLAN:
        return math.ceil(1.4 * fixed.starts)
    exact = plan_of(design.rule)
    return None if exact is None else int(exact.starts)


__all__ = [
    "STATUS",
    "ArmSummary",
    "Comparison",
    "PairResult",
    "PairTable",
    "Scores",
    "TaskDifference",
    "TaskResult",
    "Verdict",
    "compare",
    "compare_pair",
    "summary",
]
