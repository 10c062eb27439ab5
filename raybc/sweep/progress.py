"""progress.json: the machines and counters of a running sweep, for the dashboard and for people.

    {"time": unix time, "ended": null | unix time, "command": text, "cpus": n, "gpus": n, "threads": n, "workers": n,
     "max_steps": n, "data": {...}, "rollouts": {"episodes", "steps", "retries", "errors", "restarts", ...}}

Results are in the ledger; this file is not needed to resume.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from raybc.files import write_json
from raybc.run_folder import SweepFolder

#: Minimum seconds between two writes.
WRITE_INTERVAL = 2.0


class Progress:
    """Writes progress.json of a run folder. counters: gets the counters of the simulators."""

    def __init__(self, folder: SweepFolder, facts: dict[str, Any], counters: Callable[[], dict[str, Any]]) -> None:
        self._path, self._facts, self._counters = folder.progress, facts, counters
        self._last, self._counted = 0.0, counters()

    def update(self) -> None:
        if time.monotonic() - self._last > WRITE_INTERVAL:
            self._counted = self._counters()
            self._write(None)

    def end(self) -> None:
        """Record that this process has ended (its simulators may be gone already)."""
        self._write(time.time())

    def _write(self, ended: float | None) -> None:
        write_json(self._path, {"time": time.time(), "ended": ended, **self._facts, "rollouts": self._counted})
        self._last = time.monotonic()
