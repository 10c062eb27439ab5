"""online.csv: how collecting goes, over updates and steps of the environment. No torch in here."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from raybc.files import replacing
from raybc.online.journal import Entry
from raybc.train.csv_rows import append_row, read_rows

#: Rows that are written beside those of checkpoints, about; each writes the whole file.
ROWS = 200

#: `success` ... `max_lag` are of the episodes since the row before; empty without any.
COLUMNS = (
    "step", "environment_steps", "updates", "episodes", "errors", "success", "return", "length", "lag", "max_lag",
    "waiting",
)  # fmt: skip


class OnlineLog:
    """The file of one member."""

    def __init__(self, path: Path, step: int, seen: Sequence[Entry]) -> None:
        """
        Args:
            path: the file.
            step: the step that training continues from; later rows, left by a killed process, are dropped.
            seen: the episodes that are learned from at that step.
        """
        self._path = path
        rows = read_rows(path)
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) < len(rows):
            with replacing(path) as temporary, temporary.open("w", newline="") as handle:
                writer = csv.DictWriter(handle, COLUMNS)
                writer.writeheader()
                writer.writerows(kept)
        reported = int(kept[-1]["episodes"]) + int(kept[-1]["errors"]) if kept else 0
        self._reported = min(reported, len(seen))

    def add(self, step: int, updates: int, seen: Sequence[Entry], waiting: float) -> None:
        """Add a row.

        Args:
            step: gradient steps so far.
            updates: those of the online part.
            seen: all episodes that are learned from.
            waiting: the share of the time since the row before in which learning waited for simulators.
        """
        valid = [entry for entry in seen if entry.steps]
        new = [entry for entry in seen[self._reported :] if entry.steps]
        means: tuple[Any, ...] = (None,) * 5
        if new:
            means = (
                fmean(entry.outcome == "success" for entry in new),
                fmean(entry.episode_return for entry in new),
                fmean(entry.steps for entry in new),
                fmean(entry.lag for entry in new),
                max(entry.lag for entry in new),
            )
        self._reported = len(seen)
        numbers = (f"{value:.6g}" if isinstance(value, float) else value for value in means)
        steps, errors = sum(entry.steps for entry in seen), len(seen) - len(valid)
        append_row(
            self._path, COLUMNS, (step, steps, updates, len(valid), errors, *numbers, f"{waiting:.4f}")
        )  # fmt: skip


class Pace:
    """What is measured between two rows."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._since, self._waited = time.perf_counter(), 0.0

    def wait(self, seconds: float) -> None:
        """Learning waited for simulators."""
        self._waited += seconds

    @property
    def waiting(self) -> float:
        """The share of the time in which it did, 0 .. 1."""
        return min(1.0, self._waited / max(1e-9, time.perf_counter() - self._since))
