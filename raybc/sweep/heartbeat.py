"""Signs of life of a running sweep, for dashboards on other machines (`raybc.files.is_worked_on`)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from raybc.files import sign_of_life

#: Seconds between two signs.
INTERVAL = 60.0


@contextlib.contextmanager
def heartbeat(folder: Path) -> Iterator[None]:
    """Give signs of life in the run folder while the block runs. A trial can train for hours without an event."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(INTERVAL):
            sign_of_life(folder)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
