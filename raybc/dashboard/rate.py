"""Rollouts per second over the time of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raybc.rows import episodes_of
from raybc.sweep.ledger import SweepState, TrialState

#: Points of the curve.
RATE_BINS = 90
#: Start and end (unix times) of a measurement, and its episodes.
Span = tuple[float, float, int]


def spans_of(trial: TrialState) -> list[Span]:
    """The evaluations of a trial; those of releases that wrote no times are left out."""
    found = []
    for evaluation in trial.evaluations:
        if evaluation.timing.get("rollout"):
            start, end = evaluation.timing["rollout"]
            found.append((start, end, sum(map(episodes_of, evaluation.rows))))
    return found


def rate(state: SweepState, spans: Sequence[Span]) -> dict[str, Any]:
    """The episodes of a measurement are spread evenly over its duration. spans: those of all trials, to which the
    measurement on final starts is added."""
    spans = list(spans)
    if state.stages.get("final"):
        start, end = state.stages["final"][-1]
        spans.append((start, end, sum(sum(map(episodes_of, t.final_rows)) for t in state.trials.values())))
    if not spans:
        return {"start": None, "seconds": [], "rate": [], "mean": None}
    first, last = min(s[0] for s in spans), max(s[1] for s in spans)
    width = max(last - first, 1.0) / RATE_BINS
    counts = [0.0] * RATE_BINS
    for start, end, episodes in spans:
        length = max(end - start, 1e-6)
        for i in range(int((start - first) / width), min(RATE_BINS - 1, int((end - first) / width)) + 1):
            low, high = first + i * width, first + (i + 1) * width
            counts[i] += episodes * max(0.0, min(end, high) - max(start, low)) / length
    busy = _union([(start, end) for start, end, _ in spans])
    return {
        "start": first,
        "last": last,
        "seconds": [round((i + 0.5) * width, 3) for i in range(RATE_BINS)],
        "rate": [round(count / width, 3) for count in counts],
        "mean": sum(s[2] for s in spans) / busy if busy else None,
    }


def _union(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
