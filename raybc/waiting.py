"""What a command says while it works on something that prints nothing: starting Ray, building a simulator, reading."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from raybc import cli

#: What a terminal shows now.
_SHOWN: list[str] = []


def loading_torch() -> contextlib.AbstractContextManager[None]:
    """`waiting` for PyTorch, unless it has been imported, as in a notebook that trains again."""
    return contextlib.nullcontext() if "torch" in sys.modules else waiting("Loading PyTorch")


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say `what` is going on until the block ends: with the elapsed time on a terminal, as a plain line elsewhere.

    what: begins with a capital and ends without a full stop, e.g. "Starting Ray". Inside another one, a terminal shows
    the outer one.
    """
    if not cli.console.is_terminal or _SHOWN:
        if not cli.console.is_terminal:
            cli.console.print(f"{what} ...")
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description} ..."), TimeElapsedColumn())
    with Progress(*columns, console=cli.console, transient=True, refresh_per_second=4) as progress:
        progress.add_task(what, total=None)
        _SHOWN.append(what)
        try:
            yield
        finally:
            _SHOWN.clear()
