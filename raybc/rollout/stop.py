"""Rules that end an evaluation when it has measured enough, built from `raybc.statistics` and `race`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from raybc.metric import SUCCESS, Metric, summary
from raybc.rollout.race import Domination, Outcomes, dominated, first_domination
from raybc.rows import EpisodeRow
from raybc.statistics import halfwidth_reached, mean_interval

#: Minimum number of valid episodes before the interval of a mean may end an evaluation.
MINIMUM = 20
#: While a rule decides, every job runs this many starts, then every job the next block.
STARTS_PER_BLOCK = 10


def whole_blocks(tasks: int) -> int:
    """Starts between two decisions where starts of several tasks take turns: about `STARTS_PER_BLOCK`, in whole rounds
    of the tasks."""
    return math.ceil(STARTS_PER_BLOCK / tasks) * tasks


class StopRule(Protocol):
    """Decides during an evaluation that some jobs have been measured enough.

    A rule sees values in the order of the starts only, so that it decides the same for any number of workers.
    """

    def value_of(self, episode: EpisodeRow) -> float:
        """What the rule sees of an episode; nan for an error."""

    def update(self, values: Sequence[Sequence[float]]) -> dict[int, int]:
        """values[j]: `value_of` the episodes of job j on its first starts, without gaps.
        Returns job -> number of starts after which it ends, for all jobs decided so far."""


@dataclass(frozen=True)
class UntilHalfwidth:
    """Each job ends when the interval of its score is narrow enough; errors do not count.

    A rate has Wilson's interval. Other means have Student's, tested from `MINIMUM` valid episodes on; stopping at the
    first narrow one makes it cover a little less often than 95 %.
    """

    halfwidth: float
    """In the unit of the metric."""
    metric: Metric = SUCCESS

    def value_of(self, episode: EpisodeRow) -> float:
        return self.metric.of_episode(episode)

    def update(self, values: Sequence[Sequence[float]]) -> dict[int, int]:
        ends = {}
        for job, known in enumerate(values):
            valid = [start for start, value in enumerate(known) if not math.isnan(value)]
            if self.metric.is_rate:
                enough = halfwidth_reached([known[start] > 0 for start in valid], self.halfwidth)
            else:
                enough = self._enough([known[start] for start in valid])
            if enough is not None:
                ends[job] = valid[enough - 1] + 1
        return ends

    def _enough(self, values: Sequence[float]) -> int | None:
        for n in range(MINIMUM, len(values) + 1):
            mean, spread = summary(values[:n])
            found = mean_interval(mean, spread, n)
            if spread == 0 or (found is not None and found[1] - found[0] <= 2 * self.halfwidth):
                return n
        return None


@dataclass
class Race:
    """Arms of one trial race against each other and against the arms of earlier trials on the same starts.

    An arm ends when another is shown to be better; when every arm is worse than some arm of an earlier trial, the
    trial ends.
    """

    arms: Sequence[str]
    """The arm of each job. Jobs of one arm are its seeds: their mean on a start counts."""
    others: Mapping[str, Outcomes]
    """Outcomes of earlier trials' arms on the first starts."""
    comparisons: int
    """See `race.first_domination`."""
    block: int
    """Starts between two decisions."""
    alpha: float = 0.05
    metric: Metric = SUCCESS
    """What is compared; its bounds must be known (see `race`)."""
    strata: int = 1
    """Tasks whose starts take turns; `block` is a multiple of it."""
    dropped: dict[str, tuple[int, Domination]] = field(default_factory=dict)
    """Arm -> starts after which it was dropped, and why."""
    beaten: tuple[int, Domination] | None = None
    """Starts after which the trial was beaten, and why."""
    _decided: int = 0

    def value_of(self, episode: EpisodeRow) -> float:
        """The score of an episode on the scale 0 .. 1."""
        return self.metric.unit_value(self.metric.of_episode(episode))

    def update(self, values: Sequence[Sequence[float]]) -> dict[int, int]:
        while self.beaten is None and self._decide(values, self._decided + self.block):
            self._decided += self.block
        ends = {}
        for job, arm in enumerate(self.arms):
            if self.beaten is not None:
                ends[job] = self.beaten[0]
            if arm in self.dropped:
                ends[job] = self.dropped[arm][0]
        return ends

    def _decide(self, values: Sequence[Sequence[float]], n: int) -> bool:
        """Decide at n starts; False if some of their outcomes are still missing."""
        racing = [arm for arm in dict.fromkeys(self.arms) if arm not in self.dropped]
        if any(len(v) < n for arm, v in zip(self.arms, values, strict=True) if arm in racing):
            return False
        until = {arm: self.dropped[arm][0] if arm in self.dropped else n for arm in self.arms}
        outcomes = {arm: self._outcomes(values, arm, until[arm]) for arm in until}
        options: dict[str, Any] = {"comparisons": self.comparisons, "alpha": self.alpha, "strata": self.strata}
        if len(outcomes) > 1:
            for arm, reason in dominated(outcomes, **options).items():
                self.dropped.setdefault(arm, (n, reason))
        reasons = [first_domination(outcomes[arm], self.others, **options) for arm in racing if arm not in self.dropped]
        if self.others and reasons and all(reason is not None for reason in reasons):
            assert reasons[0] is not None
            self.beaten = (n, reasons[0])
        return True

    def _outcomes(self, values: Sequence[Sequence[float]], arm: str, n: int) -> np.ndarray:
        """Mean over the seeds of an arm on each of the first n starts; nan where one of them is an error."""
        return np.mean([v[:n] for a, v in zip(self.arms, values, strict=True) if a == arm], axis=0)
