"""The ledger: an append-only file that is the truth about a sweep. Tune and Optuna are fed from it.

`ledger.jsonl` has one JSON event (`raybc.rows.LedgerEvent`) per line, written with fsync by one process, which holds
the folder's lock. Only a complete line is an event: if the process was killed while writing, the torn last line is cut
off on resume.

    {"event": "start",      "trial": n, "params": {...}, "origin": "defaults" | "point" | "sampler"}
    {"event": "evaluation", "trial": n, "evaluation": k, "step": s, "status": "running" | "pruned" | "completed",
                            "score": p, "rows": [...], "timing": {...}}
    {"event": "failed",     "trial": n, "reason": text, "errors": n}
    {"event": "final",      "trial": n, "rows": [...]}
    {"event": "stage",      "name": text, "start": unix time, "end": unix time}

A trial's status is written in the same line as its last evaluation, so a trial is never known to be finished without
its result, nor the other way round.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from raybc.config import RunConfig
from raybc.config.flat import todays_names
from raybc.config.trainer import TrainerRun
from raybc.metric import SUCCESS, Metric, Score, score_of
from raybc.rollout.results import best_setting
from raybc.rows import (
    EvaluationEvent,
    EvaluationRow,
    FailedEvent,
    FinalEvent,
    LedgerEvent,
    SettingFields,
    StageEvent,
    StartEvent,
    Timing,
    TrialStatus,
    no_timing,
    rows_at,
)
from raybc.typed import check_typed
from raybc.types import SampleSetting, UserError


class Ledger:
    """Appends events; each is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = sum(len(line) for line in _whole_lines(path))
        # Unbuffered: a buffer would write the rest of a failed event later, at the end of the file.
        self._file = path.open("ab", buffering=0)
        if self._file.tell() > whole:
            self._file.truncate(whole)

    def append(self, event: LedgerEvent) -> None:
        line = json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:  # a full disk: leave no half-written event behind
            os.ftruncate(self._file.fileno(), start)
            raise

    def close(self) -> None:
        self._file.close()


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines


_EVENTS: dict[str, type] = {
    "stage": StageEvent, "start": StartEvent, "evaluation": EvaluationEvent, "failed": FailedEvent, "final": FinalEvent,
}  # fmt: skip


class _Ranked(SettingFields):
    """What ranking needs of a row."""

    episodes: int
    successes: int
    mean_steps_success: float | None


_REMEDY = "restore the file or start over with --overwrite"


def read_events(path: Path) -> list[LedgerEvent]:
    """Events so far (also while another process appends); a damaged line is refused with its number."""
    events: list[LedgerEvent] = []
    started: set[int] = set()
    for number, line in enumerate(_whole_lines(path), 1):
        where = f"{path}: line {number}"
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{where} is damaged; {_REMEDY}") from None
        kind = event.get("event") if isinstance(event, dict) else None
        if not isinstance(kind, str):
            raise UserError(f"{where}: expected an event, got {line[:60]!r}; {_REMEDY}")
        if kind not in _EVENTS:
            raise UserError(f"{where}: unknown event {kind!r:.60}; it was written by a newer version of raybc")
        try:
            check_typed(event, _EVENTS[kind], where, (EvaluationRow, Timing))
            for row in event.get("rows", ()):
                check_typed(row, _Ranked, f"{where}: rows")
        except UserError as error:
            raise UserError(f"{error}; {_REMEDY}") from None
        trial = event.get("trial")
        if kind == "start":
            started.add(trial)
        elif kind != "stage" and trial not in started:
            raise UserError(f"{where}: trial {trial} has not been started; {_REMEDY}")
        events.append(cast(LedgerEvent, event))
    return events


@dataclass
class Evaluation:
    """Rollouts of one trial at one training step."""

    evaluation: int
    """1, 2, ..."""
    step: int
    score: float
    """The metric pooled over seeds at the best sample setting; an error counts as the worst an episode can be
    (`Score.cautious`; releases up to 0.1.0 left errors out)."""
    rows: list[EvaluationRow]
    timing: Timing = field(default_factory=no_timing)
    beaten: str = ""
    """The earlier trial that was shown to be better, so that the evaluation ended early; empty: none."""


@dataclass
class TrialState:
    """A trial as recorded in the ledger."""

    number: int
    params: dict[str, Any]
    origin: str
    status: TrialStatus = "running"
    evaluations: list[Evaluation] = field(default_factory=list)
    final_rows: list[EvaluationRow] = field(default_factory=list)
    reason: str = ""
    """Why it failed."""
    lost: int = 0
    """Episodes of an evaluation of which all ended in errors, so that it failed."""
    of_trainer: bool = False
    """Whether the names of `params` are those of a trainer of others."""

    @property
    def start(self) -> StartEvent:
        """The event that starts it."""
        more: StartEvent = {"event": "start", "trial": self.number, "params": self.params, "origin": self.origin}
        return more | {"of_trainer": True} if self.of_trainer else more

    @property
    def score(self) -> float | None:
        """The score of the last evaluation: never of the best one, which would be lucky."""
        return self.evaluations[-1].score if self.evaluations else None

    @property
    def errors(self) -> int:
        """Its episodes that ended in errors, on search and on final starts."""
        rows = [row for evaluation in self.evaluations for row in evaluation.rows]
        return self.lost + sum(row.get("errors", 0) for row in [*rows, *self.final_rows])

    @property
    def finished(self) -> bool:
        return self.status != "running"


@dataclass
class SweepState:
    """The state of a sweep, built from its events."""

    trials: dict[int, TrialState] = field(default_factory=dict)
    stages: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Stage -> start and end (unix times) in each process that worked on the sweep."""
    metric: Metric = SUCCESS
    """What trials are compared by."""

    @classmethod
    def from_events(cls, events: Iterable[LedgerEvent], metric: Metric = SUCCESS) -> SweepState:
        state = cls(metric=metric)
        for event in events:
            state.apply(event)
        return state

    def apply(self, event: LedgerEvent) -> None:
        if event["event"] == "stage":
            self.stages.setdefault(event["name"], []).append((event["start"], event["end"]))
        elif event["event"] == "start":
            number = event["trial"]
            cls = TrainerRun if event.get("of_trainer") else RunConfig
            params = todays_names(cls, event["params"], f"ledger: trial {number}")
            self.trials[number] = TrialState(number, params, event["origin"], of_trainer=cls is TrainerRun)
        elif event["event"] == "evaluation":
            trial = self.trials[event["trial"]]
            trial.evaluations.append(
                Evaluation(
                    event["evaluation"],
                    event["step"],
                    event["score"],
                    event["rows"],
                    event["timing"],
                    event.get("beaten", ""),
                )
            )
            trial.status = event["status"]
        elif event["event"] == "failed":
            trial = self.trials[event["trial"]]
            trial.status, trial.reason, trial.lost = "failed", event["reason"], event.get("errors", 0)
        elif event["event"] == "final":
            self.trials[event["trial"]].final_rows = event["rows"]
        else:
            raise UserError(f"ledger: unknown event {event['event']!r}; it was written by a newer version of raybc")

    def finished(self) -> list[TrialState]:
        return [t for t in self.trials.values() if t.finished]

    def unfinished(self) -> list[TrialState]:
        return [t for t in self.trials.values() if not t.finished]

    def final_score(self, trial: TrialState) -> Score | None:
        """The score of a trial on the final starts at its best sample setting; None if it was not measured there."""
        if not trial.final_rows or not trial.evaluations:
            return None
        setting = best_setting(trial.evaluations[-1].rows, self.metric)
        return score_of(rows_at(trial.final_rows, setting), self.metric)

    def ranking(self) -> list[TrialState]:
        """Completed trials, best first, by search starts only: score, then fewer steps to success, then number.

        Errors count against a trial (`Score.order`). If no trial was completed: the pruned ones that were evaluated.
        """
        return sorted(self.ranked(), key=self.order)

    def ranked(self) -> list[TrialState]:
        """The trials of the ranking, in any order."""
        measured = [t for t in self.trials.values() if t.evaluations and t.status in ("completed", "pruned")]
        return [t for t in measured if t.status == "completed"] or measured

    def order(self, trial: TrialState, best: SampleSetting | None = None) -> tuple[bool, float, float, int]:
        """What a trial that was evaluated is ranked by: smaller is better. best: its best sample setting, if known."""
        last = trial.evaluations[-1]
        chosen = rows_at(last.rows, best or best_setting(last.rows, self.metric))
        pooled = score_of(chosen, self.metric)
        order = pooled.order if pooled.errors else (False, self.metric.cost(last.score))
        steps = [s for r in chosen if (s := r["mean_steps_success"]) is not None]
        return (*order, sum(steps) / len(steps) if steps else float("inf"), trial.number)
