"""progress.json: what a sweep at work has and does, for those who look at its folder.

    {"time": unix time, "ended": null | unix time, "command": text, "cpus": n, "gpus": n, "threads": n, "workers": n,
     "max_steps": n, "data": {...}, "rollouts": {"episodes", "steps", "retries", "errors", "restarts", ...}}

The ledger says what was found; this file only says with what, and is not needed to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raybc.files import write_json

FILE = "progress.json"
#: The file is written at most so often.
SECONDS = 2.0


class Progress:
    """Writes progress.json of a run folder. `counters` asks the simulators for their counts."""

    def __init__(self, folder: Path, facts: dict[str, Any], counters: Callable[[], dict[str, Any]]) -> None:
        self._path, self._facts, self._counters = folder / FILE, facts, counters
        self._last, self._counted = 0.0, counters()

    def update(self) -> None:
        if time.monotonic() - self._last > SECONDS:
            self._counted = self._counters()
            self._write(None)

    def end(self) -> None:
        """Say that no more is to be expected of this process (the simulators may be gone)."""
        self._write(time.time())

    def _write(self, ended: float | None) -> None:
        write_json(self._path, {"time": time.time(), "ended": ended, **self._facts, "rollouts": self._counted})
        self._last = time.monotonic()
