"""The ledger: an append-only file that is the truth about a sweep; Tune and Optuna are told from it.

`ledger.jsonl` has one JSON event a line, written with fsync by one process (which holds the folder's lock). A line is
there whole or it is not an event: a torn last line (the process was killed while writing) is cut off on resume.

    {"event": "start",      "trial": n, "params": {...}, "origin": "defaults" | "point" | "sampler"}
    {"event": "evaluation", "trial": n, "evaluation": k, "step": s, "status": "running" | "pruned" | "completed",
                            "score": p, "rows": [...], "timing": {...}}
    {"event": "failed",     "trial": n, "reason": text}
    {"event": "final",      "trial": n, "rows": [...]}
    {"event": "stage",      "name": text, "start": unix time, "end": unix time}

The status of a trial travels in the same line as its last evaluation, so there is no moment at which a finished trial
is known without its result or the other way round.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raybc.config import RunConfig
from raybc.config.flat import todays_names
from raybc.rollout.results import best_setting, rows_at
from raybc.types import UserError

FILE = "ledger.jsonl"


class Ledger:
    """Appends events; each is on the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = sum(len(line) for line in _whole_lines(path))
        # Unbuffered: a buffer would write what is left of a failed event later, at the end of the file.
        self._file = path.open("ab", buffering=0)
        if self._file.tell() > whole:
            self._file.truncate(whole)

    def append(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:  # a full disk: no half event stays behind
            os.ftruncate(self._file.fileno(), start)
            raise

    def close(self) -> None:
        self._file.close()


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines


def read_events(path: Path) -> list[dict[str, Any]]:
    """Events so far (may be called while another process appends); a damaged line is refused with its number."""
    events = []
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            event = json.loads(line)
        except ValueError:
            raise UserError(
                f"{path}: line {number} is damaged; restore the file or start anew with --overwrite"
            ) from None
        if not isinstance(event, dict) or "event" not in event:
            raise UserError(f"{path}: line {number}: expected an event, got {line[:60]!r}")
        events.append(event)
    return events


@dataclass
class Evaluation:
    """Rollouts of one trial at one training step; rows as in results.jsonl, each with its `episode_list`."""

    evaluation: int
    step: int
    score: float
    rows: list[dict[str, Any]]
    timing: dict[str, Any] = field(default_factory=dict)
    beaten: str = ""
    """Which earlier trial was shown to be better, so that the measurement ended early; empty: none."""


@dataclass
class TrialState:
    """A trial as the ledger knows it. status: running | pruned | completed | failed."""

    number: int
    params: dict[str, Any]
    origin: str
    status: str = "running"
    evaluations: list[Evaluation] = field(default_factory=list)
    final_rows: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""

    @property
    def score(self) -> float | None:
        """Success at the best sample setting at the last evaluation; the last, never the luckiest."""
        return self.evaluations[-1].score if self.evaluations else None

    @property
    def finished(self) -> bool:
        return self.status != "running"


@dataclass
class SweepState:
    """What the events add up to."""

    trials: dict[int, TrialState] = field(default_factory=dict)
    stages: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @classmethod
    def from_events(cls, events: Iterable[dict[str, Any]]) -> SweepState:
        state = cls()
        for event in events:
            state.apply(event)
        return state

    def apply(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "stage":
            self.stages.setdefault(event["name"], []).append((event["start"], event["end"]))
            return
        if kind not in ("start", "evaluation", "failed", "final"):
            raise UserError(f"ledger: unknown event {kind!r}; it was written by a newer version of raybc")
        number = event["trial"]
        if kind == "start":
            params = todays_names(RunConfig, event["params"], f"ledger: trial {number}")
            self.trials[number] = TrialState(number, params, event["origin"])
            return
        trial = self.trials[number]
        if kind == "evaluation":
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
        elif kind == "failed":
            trial.status, trial.reason = "failed", event["reason"]
        else:
            trial.final_rows = event["rows"]

    def finished(self) -> list[TrialState]:
        return [t for t in self.trials.values() if t.finished]

    def unfinished(self) -> list[TrialState]:
        return [t for t in self.trials.values() if not t.finished]

    def ranking(self) -> list[TrialState]:
        """Completed trials, best first, by the search starts alone: success, then fewer steps to it, then number.

        Where no trial was completed, the pruned ones that were measured.
        """
        measured = [t for t in self.trials.values() if t.evaluations and t.status in ("completed", "pruned")]
        best = [t for t in measured if t.status == "completed"] or measured

        def key(trial: TrialState) -> tuple[float, float, int]:
            chosen = best_setting(trial.evaluations[-1].rows)
            steps = [r["mean_steps_success"] for r in rows_at(trial.evaluations[-1].rows, chosen)]
            known = [s for s in steps if s is not None]
            return (-trial.evaluations[-1].score, sum(known) / len(known) if known else float("inf"), trial.number)

        return sorted(best, key=key)
