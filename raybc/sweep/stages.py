"""What a sweep does beside searching: times of its stages, tables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from raybc.rows import PoolStats, StageEvent
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import Ledger, SweepState
from raybc.sweep.views import write_tables

#: Minimum seconds between two updates of the tables while the search runs.
TABLE_INTERVAL = 2.0


def counters(stats: PoolStats) -> dict[str, Any]:
    """The counters of a pool that are of interest to people."""
    return {k: v for k, v in stats.items() if k not in ("pids", "spans", "queued")}


class Stages:
    """Records in the ledger how long each stage took."""

    def __init__(self, ledger: Ledger, state: SweepState) -> None:
        self._ledger, self._state = ledger, state

    def add(self, name: str, start: float) -> None:
        event: StageEvent = {"event": "stage", "name": name, "start": start, "end": time.time()}
        self._ledger.append(event)
        self._state.apply(event)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.time()
        try:
            yield
        finally:
            self.add(name, start)


class Tables:
    """Updates the tables of the run folder, not too often."""

    def __init__(self, folder: SweepFolder, config: SweepConfig, state: SweepState) -> None:
        self._write: Callable[[], None] = lambda: write_tables(folder, config, state)
        self._last = 0.0

    def update(self, now: bool = False) -> None:
        if now or time.monotonic() - self._last > TABLE_INTERVAL:
            self._write()
            self._last = time.monotonic()
