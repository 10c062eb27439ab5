"""Trackers copy train.csv, eval.csv, metrics.csv and the videos of a member to an experiment tracker.

A `Tracker` reads the files, so it does not matter which process trains.
"""

from __future__ import annotations

import csv
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from raybc.config import RunConfig
from raybc.metric import FORMER_KEY, KEY
from raybc.run_folder import TrainingFolder
from raybc.train.csv_rows import PHASE

#: Seconds between two reads of the files.
INTERVAL = 10.0
#: The files that trackers copy.
_RUN = TrainingFolder(Path())
FILES = tuple(path.name for path in (_RUN.train_csv, _RUN.eval_csv, _RUN.offline_csv, _RUN.metrics_csv))
#: (step, column -> value)
Row = tuple[int, dict[str, float]]


class TrackerConfig(Protocol):
    """Settings of a tracker."""

    def check(self) -> None:
        """Raise `UserError` for impossible settings; called before anything is started."""

    def start(self, folder: Path, config: RunConfig, run_id: str, step: int, name: str = "") -> Tracker | None:
        """A tracker of the run in `folder`, which continues after `step`; None if the tracker is off. name: what people
        see (default: the folder's)."""


class Tracker(ABC):
    """The copy of one member's run folder."""

    def __init__(self, folder: Path, done: dict[str, int]) -> None:
        """done: file of `FILES` -> the last step that was copied before."""
        self._folder, self._done = folder, done
        self._synced_at = time.monotonic()

    def sync(self, at_once: bool = False) -> None:
        """Copy new rows, at most every `INTERVAL` seconds unless `at_once`."""
        if not at_once and time.monotonic() < self._synced_at + INTERVAL:
            return
        self._synced_at = time.monotonic()
        for name, done in self._done.items():
            new = [row for row in _rows(self._folder / name) if row[0] > done]
            if new and self._copy(new):
                self._done[name] = new[-1][0]

    @abstractmethod
    def _copy(self, rows: list[Row]) -> bool:
        """Copy rows of one file; False: failed for now, try again at the next sync."""

    @abstractmethod
    def videos(self, step: int, paths: Iterable[Path]) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Copy the remaining rows and end the tracker's run."""


def _rows(path: Path) -> list[Row]:
    """All complete rows; another process may be writing the last one."""
    if not path.exists():
        return []
    text = path.read_text()
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    names = (KEY, FORMER_KEY, PHASE)  # the only columns that are no numbers
    return [(int(row.pop("step")), {k: float(v) for k, v in row.items() if v and k not in names}) for row in rows]
