"""Trackers: what stands in a member's train.csv and eval.csv, and its videos, as a run of a tracker.

The files are the truth and a `Tracker` copies them, so it does not matter which process trains.
"""

from __future__ import annotations

import csv
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from raybc.config import RunConfig

#: Seconds between looks at the files.
INTERVAL = 10.0
FILES = ("train.csv", "eval.csv")
#: (step, column -> value)
Row = tuple[int, dict[str, float]]


class TrackerConfig(Protocol):
    """Whether and where runs are copied to."""

    def check(self) -> None:
        """Raises `UserError` where that cannot work; called before anything is started."""

    def start(self, folder: Path, config: RunConfig, run_id: str, step: int) -> Tracker | None:
        """Of the run in `folder`, which goes on after `step`; None where nothing is copied."""


class Tracker(ABC):
    """The copy of one member's run folder."""

    def __init__(self, folder: Path, done: dict[str, int]) -> None:
        """done: of each of `FILES` the last step that was copied before."""
        self._folder, self._done = folder, done
        self._looked = time.monotonic()

    def sync(self, at_once: bool = False) -> None:
        """Copy the rows that are new, now and then."""
        if not at_once and time.monotonic() < self._looked + INTERVAL:
            return
        self._looked = time.monotonic()
        for name, done in self._done.items():
            new = [row for row in _rows(self._folder / name) if row[0] > done]
            if new and self._copy(new):
                self._done[name] = new[-1][0]

    @abstractmethod
    def _copy(self, rows: list[Row]) -> bool:
        """Copy rows of one file; False: not now, try again at the next look."""

    @abstractmethod
    def videos(self, step: int, paths: Iterable[Path]) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Copy what is left, and end the run there."""


def _rows(path: Path) -> list[Row]:
    """Rows that are whole: another process may be writing the last."""
    if not path.exists():
        return []
    text = path.read_text()
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return [(int(row.pop("step")), {k: float(v) for k, v in row.items() if v}) for row in rows]
