"""When the trials of a sweep ran, and how its best score rose, from the ledger of its run folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raybc.files import read_json
from raybc.metric import Metric
from raybc.run_folder import SweepFolder
from raybc.sweep.ledger import SweepState, TrialState

#: Seconds without training and episodes after which a break between two runs of a sweep is left out of the timeline.
BREAK = 600.0
#: Slots that are drawn; trials of further ones are left out.
SLOTS = 40
#: Points of the best score so far; of more, those are kept at which it rose.
POINTS = 500
Span = tuple[float, float]


def timeline(folder: SweepFolder, state: SweepState, most: int | None = None) -> dict[str, Any]:
    """{"slots", "seconds", "breaks", "since", "most", "trials": {number: {"slot", "spans": [[kind, start, end], ...]}},
    "stages": {name: [[start, end], ...]}} in seconds since the sweep began; without trials where the ledger has no
    times.

    A slot holds trials that follow each other. breaks: seconds left out, in which the sweep did not run.

    Args:
        folder: of the sweep.
        state: its ledger.
        most: only the last trials, at most this many; `since` is then when the first of them began, else 0.
    """
    trials = {n: spans for n, trial in state.trials.items() if (spans := _spans(trial))}
    stages = {name: [_span(span) for span in spans] for name, spans in state.stages.items() if name != "whole"}
    path = folder.timeline
    simulated = [_span(span) for span in (read_json(path) if path.is_file() else {}).get("simulate", [])]
    if simulated:
        stages["episodes"] = merged(simulated, gap=2.0)
    busy = [(start, end) for spans in trials.values() for _, start, end in spans]
    clock = _Clock([*busy, *(span for spans in stages.values() for span in spans)])
    slots = _slots({n: (spans[0][1], max(end for _, _, end in spans)) for n, spans in trials.items()})
    kept = sorted(trials, key=lambda n: (trials[n][0][1], n))[-most:] if most else list(trials)
    return {
        "since": min((clock(trials[n][0][1]) for n in kept), default=0.0) if len(kept) < len(trials) else 0.0,
        "most": most,
        "slots": min(SLOTS, max(slots.values(), default=-1) + 1),
        "seconds": clock.seconds,
        "breaks": clock.breaks,
        "trials": {
            n: {"slot": slots[n], "spans": [[kind, clock(start), clock(end)] for kind, start, end in trials[n]]}
            for n in kept
            if slots[n] < SLOTS
        },
        "stages": {name: [[clock(a), clock(b)] for a, b in spans] for name, spans in stages.items() if spans},
    }


def _spans(trial: TrialState) -> list[tuple[str, float, float]]:
    """(training or rollouts, start, end) as unix times, in their order."""
    found = []
    for evaluation in trial.evaluations:
        timing = evaluation.timing
        found += [("training", *_span(timing["train"]))] if timing.get("train") else []
        found += [("rollouts", *_span(timing["rollout"]))] if timing.get("rollout") else []
    return sorted(found, key=lambda span: span[1])


def _span(pair: Sequence[float]) -> Span:
    return float(pair[0]), float(pair[1])


def merged(spans: Iterable[Span], gap: float = 0.0) -> list[Span]:
    """The union of spans; those that are at most `gap` apart are one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + gap:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


class _Clock:
    """From unix times to seconds since the beginning, without breaks of more than `BREAK` seconds."""

    def __init__(self, spans: list[Span]) -> None:
        self._runs = merged(spans, gap=BREAK)
        lengths = [end - start for start, end in self._runs]
        self.seconds = round(sum(lengths), 2)
        self.breaks = round(self._runs[-1][1] - self._runs[0][0] - sum(lengths), 2) if self._runs else 0.0

    def __call__(self, time: float) -> float:
        return round(sum(min(time, end) - start for start, end in self._runs if time > start), 2)


def _slots(spans: Mapping[int, Span]) -> dict[int, int]:
    """A row for each trial, the first that is free when the trial begins."""
    ends: list[float] = []
    found = {}
    for n, (start, end) in sorted(spans.items(), key=lambda item: (item[1], item[0])):
        free = next((i for i, before in enumerate(ends) if before <= start + 1e-6), len(ends))
        ends[free : free + 1] = [end]
        found[n] = free
    return found


def best_so_far(trials: Sequence[TrialState], metric: Metric) -> list[list[float | None]]:
    """[trials that have ended, hours since the search began, best score of a completed one] at every trial that was
    completed, or with more than `POINTS` of them, where it rose and at the last one. Scores are those of search starts,
    at the last evaluation. Hours are None in files of earlier releases.
    """
    ended = [trial for trial in trials if trial.status != "running" and trial.evaluations]
    spans = {t.number: t.evaluations[-1].timing.get("rollout") or [0.0, 0.0] for t in ended}
    begins = [t.evaluations[0].timing.get("train") or [0.0] for t in ended]
    known = [span[0] for span in begins if span[0]]
    begin = min(known, default=0.0)
    points: list[list[float | None]] = []
    best: float | None = None
    for place, trial in enumerate(sorted(ended, key=lambda t: (spans[t.number][1], t.number)), 1):
        if trial.status != "completed" or trial.score is None:
            continue
        if best is None or metric.cost(trial.score) < metric.cost(best):
            best = trial.score
        end = spans[trial.number][1]
        hours = round((end - begin) / 3600, 5) if end and begin else None
        points.append([place, hours, best])
    if len(points) <= POINTS:
        return points
    rose = [point for before, point in itertools.pairwise(points) if point[2] != before[2]]
    return list({id(point): point for point in (points[0], *rose, points[-1])}.values())
