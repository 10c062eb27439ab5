"""What decides a comparison besides its episodes, and when a measurement may stop. No Ray in here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raybc.compare.planning import Rule
from raybc.compare.sequential import bets_for, differences, log_threshold
from raybc.metric import SUCCESS, Metric
from raybc.rollout.race import log_e_values
from raybc.rows import EpisodeRow


@dataclass(frozen=True)
class Design:
    """How arms are compared; fixed before the first episode."""

    rule: Rule
    starts: int
    """The most starts for each arm."""
    metric: Metric = SUCCESS
    level: float = 0.05
    power: float = 0.8
    """For "about N more starts would"."""
    walks: bool = True
    """Whether every score is 0 or 1, so that p-values of `sequential` may be sums over paths."""

    planned: int = 0
    """The most starts when the comparison began, which sets the size of the bets (0: `starts`)."""

    tasks: int = 1
    """Whose starts take turns."""

    @property
    def bets(self) -> tuple[float, ...]:
        return bets_for(self.planned or self.starts)

    @property
    def most(self) -> int | None:
        """The most starts if p-values are sums over paths; None: they hold for any number."""
        return self.starts if self.rule == "sequential" and self.walks else None


def arm_scores(values_KN: np.ndarray) -> np.ndarray:
    """The arm's score on every start, (N,): the mean of its trainings; nan where one of them had an error."""
    return values_KN.mean(axis=0)


class StopWatch:
    """Says after which start each arm needs no more episodes.

    An arm ends when it was shown to be worse than another one, p-values being corrected by Holm's method; the last one
    that is left ends, too.
    """

    def __init__(self, design: Design, arms: Sequence[str]) -> None:
        self._design, self._arms = design, tuple(arms)
        self._pairs = list(itertools.permutations(self._arms, 2))
        count = len(self._pairs) // 2
        self._thresholds = [
            log_threshold(design.level / 2 / (count - place), design.most, design.bets) for place in range(count)
        ]

    def ends(self, scores: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Arm -> number of starts after which it ends, for those that do.

        scores: arm -> its scores on the scale 0 .. 1 on its first starts, nan for an error.
        """
        if self._design.rule == "fixed":
            return {}
        found: dict[str, int] = {}
        until = {arm: len(scores[arm]) for arm in self._arms}
        largest = {pair: self._largest(scores, pair) for pair in self._pairs}
        for n in range(1, self._design.starts + 1):
            alive = [arm for arm in self._arms if arm not in found]
            if any(until[arm] < n for arm in alive):
                break
            for loser in self._losers(largest, found, n):
                found.setdefault(loser, n)
            alive = [arm for arm in alive if arm not in found]
            if len(alive) <= 1:
                found |= dict.fromkeys(alive, n)
                break
        return found

    def _largest(self, scores: Mapping[str, np.ndarray], pair: tuple[str, str]) -> np.ndarray:
        """log of the largest E so far against "the first arm of the pair is not better", for every number of starts."""
        a, b = (scores[name] for name in pair)
        n = min(len(a), len(b))
        logs = log_e_values(differences(a[:n], b[:n])[0], self._design.bets)
        return np.maximum.accumulate(np.maximum(logs, 0.0)) if n else logs

    def _losers(self, largest: Mapping[tuple[str, str], np.ndarray], ended: Mapping[str, int], n: int) -> list[str]:
        """The arms that were shown to be worse than another after n starts (Holm's steps from the largest E on)."""
        best = []
        for a, b in itertools.combinations(self._arms, 2):
            last = min(n, ended.get(a, n), ended.get(b, n)) - 1
            sides = [(float(largest[p][last]), p[1]) for p in ((a, b), (b, a)) if len(largest[p]) > last]
            if sides:
                best.append(max(sides))
        losers = []
        for (log_e, loser), threshold in zip(sorted(best, reverse=True), self._thresholds, strict=False):
            if log_e < threshold - 1e-12:
                break
            losers.append(loser)
        return losers


class CompareRule:
    """`raybc.rollout.stop.StopRule` of a comparison: jobs of an arm end when the arm does.

    It decides in the order of the starts, so the result is the same for any number of workers.
    """

    def __init__(
        self, design: Design, arms: Sequence[str], jobs: Sequence[str], known: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """jobs: the arm of each job. known: scores on the scale 0 .. 1 of arms that were measured before."""
        self._design, self._jobs, self._known = design, tuple(jobs), dict(known or {})
        self._watch = StopWatch(design, arms)

    def value_of(self, episode: EpisodeRow) -> float:
        """The score of an episode, on the scale 0 .. 1 where a rule needs it."""
        value = self._design.metric.of_episode(episode)
        return value if self._design.rule == "fixed" else self._design.metric.unit_value(value)

    def update(self, values: Sequence[Sequence[float]]) -> dict[int, int]:
        if self._design.rule == "fixed":
            return {}
        scores = dict(self._known)
        for arm in dict.fromkeys(self._jobs):
            mine = [v for a, v in zip(self._jobs, values, strict=True) if a == arm]
            n = min(map(len, mine))
            scores[arm] = arm_scores(np.array([v[:n] for v in mine], np.float64).reshape(len(mine), n))
        ends = self._watch.ends(scores)
        return {job: ends[arm] for job, arm in enumerate(self._jobs) if arm in ends}
