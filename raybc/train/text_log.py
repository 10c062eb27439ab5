"""`training.log`: what the command prints while it trains, and a line for each row of train.csv, with times."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO

from raybc import cli


class TextLog:
    """The file, as a context manager. Lines are added to those of earlier commands, and are on disk at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._last = ""
        self._stack = contextlib.ExitStack()

    def write(self, text: str) -> None:
        """Add a line; nothing for the text of the line before (a row that was read twice)."""
        text = " ".join(text.split())
        if self._file is not None and text != self._last:
            self._file.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {text}\n")
            self._last = text

    def __enter__(self) -> TextLog:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._stack.enter_context(self._path.open("a", encoding="utf-8", buffering=1))
        self._stack.enter_context(cli.copied(self.write))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            is_interrupted = isinstance(error, KeyboardInterrupt | cli.Interrupted)
            self.write("interrupted" if is_interrupted else f"stopped: {error or kind}")
        self._stack.close()
        self._file = None
