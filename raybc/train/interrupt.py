"""Ctrl-C while a training runs: the step in progress ends, so that what it reached can be saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interrupt_after_step() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C was pressed (SIGINT, as a notebook's *interrupt* sends it). A second
    one raises `KeyboardInterrupt` at once.

    Nothing changes where Python does not handle the signal as by default, and outside the main thread, which signals
    do not reach.
    """
    pressed = False

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
