"""`--dashboard` of a sweep: its page while it runs and, in a terminal, until Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from raybc import cli
from raybc.dashboard.serve import beside, until_ctrl_c


def somebody_watches() -> bool:
    """Whether this is a terminal in which somebody can press Ctrl-C; a script must not wait for that."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


@contextlib.contextmanager
def dashboard(folder: Path, port: int) -> Iterator[None]:
    """Serve the page of the sweep in this folder while the block runs. In a terminal the page stays when the sweep has
    ended, also if it failed, until Ctrl-C; the exit status is the sweep's. A sweep that was refused, or stopped by
    Ctrl-C, ends the page."""
    with beside(folder, port) as url:
        cli.console.print(f"dashboard: {url}")
        try:
            yield
        except cli.Failed as error:
            _stay(url, f"the sweep failed: {error}")
            raise
        _stay(url, "the sweep has ended")
    cli.console.print(f"to open it again: python -m raybc.dashboard {folder}")


def _stay(url: str, said: str) -> None:
    if somebody_watches():
        cli.console.print(f"{said}; its dashboard stays open: {url} (Ctrl-C ends it)")
        until_ctrl_c()
