"""When an evaluation has seen enough: rules for `RolloutPool.evaluate`, made of `report.stats` and `race`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from raybc.rollout.race import Domination, Outcomes, dominated, first_domination
from raybc.statistics import halfwidth_reached

#: Starts are handed out in blocks where works race: every work the first so many, then the next.
BLOCK = 10


class StopRule(Protocol):
    """Decides during an evaluation that some works have been measured enough.

    It sees values in the order of the starts only, so that it decides the same for every number of workers.
    """

    def update(self, values: Sequence[Sequence[float]]) -> dict[int, int]:
        """values[w]: of work w, its first starts as far as all of them are known, success as 1.0 or 0.0, an error as
        nan. Returns work -> number of starts after which it ends, for all decided so far."""


@dataclass(frozen=True)
class UntilHalfwidth:
    """Each work ends when the Wilson interval of its rate is narrow enough; errors are not counted."""

    halfwidth: float

    def update(self, values: Sequence[Sequence[float]]) -> dict[int, int]:
        ends = {}
        for work, known in enumerate(values):
            valid = [start for start, value in enumerate(known) if not math.isnan(value)]
            enough = halfwidth_reached([known[start] > 0 for start in valid], self.halfwidth)
            if enough is not None:
                ends[work] = valid[enough - 1] + 1
        return ends


@dataclass
class Race:
    """Arms of one trial race against each other and against the arms of earlier trials on the same starts.

    arms: the arm of each work (works of one arm are its seeds: their mean on a start counts). others: outcomes of
    earlier trials' arms on the first starts. comparisons: see `race.first_domination`. block: starts between two
    looks. An arm ends when another is shown to be better; when each is worse than some earlier trial's, the trial ends.
    """

    arms: Sequence[str]
    others: Mapping[str, Outcomes]
    comparisons: int
    block: int
    alpha: float = 0.05
    dropped: dict[str, tuple[int, Domination]] = field(default_factory=dict)
    beaten: tuple[int, Domination] | None = None
    _looked: int = 0

    def update(self, values: Sequence[Sequence[float]]) -> dict[int, int]:
        while self.beaten is None and self._look(values, self._looked + self.block):
            self._looked += self.block
        ends = {}
        for work, arm in enumerate(self.arms):
            if self.beaten is not None:
                ends[work] = self.beaten[0]
            if arm in self.dropped:
                ends[work] = self.dropped[arm][0]
        return ends

    def _look(self, values: Sequence[Sequence[float]], n: int) -> bool:
        """Decide at n starts; False when they are not all known yet."""
        racing = [arm for arm in dict.fromkeys(self.arms) if arm not in self.dropped]
        if any(len(v) < n for arm, v in zip(self.arms, values, strict=True) if arm in racing):
            return False
        until = {arm: self.dropped[arm][0] if arm in self.dropped else n for arm in self.arms}
        outcomes = {arm: self._outcomes(values, arm, until[arm]) for arm in until}
        options = {"comparisons": self.comparisons, "alpha": self.alpha}
        if len(outcomes) > 1:
            for arm, reason in dominated(outcomes, **options).items():  # type: ignore[arg-type]
                self.dropped.setdefault(arm, (n, reason))
        reasons = [
            first_domination(outcomes[arm], self.others, comparisons=self.comparisons, alpha=self.alpha)
            for arm in racing
            if arm not in self.dropped
        ]
        if self.others and reasons and all(reason is not None for reason in reasons):
            assert reasons[0] is not None
            self.beaten = (n, reasons[0])
        return True

    def _outcomes(self, values: Sequence[Sequence[float]], arm: str, n: int) -> np.ndarray:
        """Mean over the seeds of an arm on each of the first n starts; nan where one of them is an error."""
        return np.mean([v[:n] for a, v in zip(self.arms, values, strict=True) if a == arm], axis=0)
