"""Reading files that another process writes: a ledger by what was added, small JSON files when they changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from raybc.types import UserError

#: The first bytes of a ledger tell one from another: they hold the time of its first event.
_HEAD = 256


class LedgerTail:
    """The events of a ledger, each read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset, self._line, self._head = 0, 0, b""

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """(whether the file is another one than before, events since the last call).

        Of a file that was replaced or cut (--overwrite) all events are new. A line without its end is left for later.
        Raises `UserError` for a line that is no event.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            replaced = self._offset > 0
            self._offset, self._line, self._head = 0, 0, b""
            return replaced, []
        with file:
            replaced = file.seek(0, os.SEEK_END) < self._offset
            file.seek(0)
            replaced = replaced or file.read(len(self._head)) != self._head
            if replaced:
                self._offset, self._line = 0, 0
            file.seek(self._offset)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            events = [self._event(line) for line in whole.splitlines()]
            self._offset += len(whole)
            file.seek(0)
            self._head = file.read(min(_HEAD, self._offset))
        return replaced, events

    def _event(self, line: bytes) -> dict[str, Any]:
        self._line += 1
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            raise UserError(f"{self._path}: line {self._line} is damaged: expected an event, got {line[:60]!r}")
        return event


class JsonFile:
    """The value of a JSON file as it is now; read again only when it changed."""

    def __init__(self, path: Path, default: Any) -> None:
        self._path, self._default = path, default
        self._mark: tuple[int, int] | None = None
        self.value: Any = default

    def refresh(self) -> bool:
        """Read the file if it changed; says whether the value may be another. A file that is gone has the default."""
        try:
            stat = self._path.stat()
            mark: tuple[int, int] | None = (stat.st_mtime_ns, stat.st_size)
            if mark == self._mark:
                return False
            value = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            mark, value = None, self._default
            if self._mark is None:
                return False
        except ValueError as error:
            raise UserError(f"{self._path}: not readable as JSON: {error}") from None
        if not isinstance(value, type(self._default)):
            raise UserError(f"{self._path}: expected a JSON {type(self._default).__name__}, got {type(value).__name__}")
        self._mark, self.value = mark, value
        return True
