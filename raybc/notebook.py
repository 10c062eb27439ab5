"""Jupyter kernels: progress that a cell shows while it runs, and keeps."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID

#: Columns of what a cell shows.
WIDTH = 110
#: Seconds between two changes of it: each is a message to the browser, and to the file of the notebook.
INTERVAL = 0.5


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def plain_in_kernel() -> dict[str, Any]:
    """Options of a `Console` for output that is text in a notebook, too: kernels ask for colours (FORCE_COLOR), which
    rich takes for a terminal that can move its cursor."""
    return {"force_jupyter": False, "force_terminal": False if in_kernel() else None}


def progress_of(*columns: str | ProgressColumn, **options: Any) -> Progress:
    """A `Progress`; in a notebook an output of the cell."""
    return (CellProgress if in_kernel() else Progress)(*columns, **options)


class CellProgress(Progress):
    """A `Progress` that is one output of the cell, replaced as it changes. It is text, so that it needs neither widgets
    nor scripts and stays readable in the saved notebook."""

    def __init__(self, *columns: str | ProgressColumn, **options: Any) -> None:
        super().__init__(*columns, **options | {"auto_refresh": False})
        self._paper = Console(file=io.StringIO(), width=WIDTH, highlight=False, **plain_in_kernel())
        self._output: Any = None
        self._drawn = 0.0

    def start(self) -> None:
        self.refresh()

    def stop(self) -> None:
        if self.live.transient and self._output is not None:
            self._output.update({"text/plain": ""}, raw=True)
        else:
            self.refresh()

    def update(self, task_id: TaskID, **options: Any) -> None:
        super().update(task_id, **options)
        if time.monotonic() - self._drawn >= INTERVAL:
            self.refresh()

    def refresh(self) -> None:
        if self.disable or self.console.quiet or not self.tasks:
            return
        from IPython.display import display  # a kernel has it

        with self._paper.capture() as drawn:
            self._paper.print(self.get_renderable())
        shown = {"text/plain": drawn.get().rstrip()}
        self._drawn = time.monotonic()
        if self._output is None:
            self._output = display(shown, raw=True, display_id=True)
        else:
            self._output.update(shown, raw=True)
