"""Reading files that another process writes: the new events of a ledger, and small JSON files that changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from raybc.rows import LedgerEvent
from raybc.types import UserError

#: Bytes at the start of a ledger that identify it: they contain the time of its first event.
_HEAD = 256


class LedgerTail:
    """The events of a ledger, each read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset, self._line, self._head = 0, 0, b""

    def read(self) -> tuple[bool, list[LedgerEvent]]:
        """(whether the file was replaced, events since the last call); see `new`."""
        replaced, events = self.new()
        return replaced, [event for event, _ in events]

    def new(self) -> tuple[bool, Iterator[tuple[LedgerEvent, int]]]:
        """(whether the file was replaced, events since the last call with the byte at which each begins).

        If the file was replaced or truncated (--overwrite), all its events are new. An incomplete last line is left for
        later. Events are read one at a time, since those of a long sweep fill the memory: read them to the end before
        the next call. Raises `UserError` for a line that is not an event.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            replaced = self._offset > 0
            self._offset, self._line, self._head = 0, 0, b""
            return replaced, iter(())
        replaced = file.seek(0, os.SEEK_END) < self._offset
        file.seek(0)
        replaced = replaced or file.read(len(self._head)) != self._head
        if replaced:
            self._offset, self._line = 0, 0
        return replaced, self._events(file)

    def _events(self, file: BinaryIO) -> Iterator[tuple[LedgerEvent, int]]:
        with file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                event, begin = self._event(line), self._offset
                self._offset += len(line)
                self._line += 1
                yield event, begin
            file.seek(0)
            self._head = file.read(min(_HEAD, self._offset))

    def at(self, begin: int) -> LedgerEvent:
        """The event that begins at a byte, as `new` gave it."""
        with self._path.open("rb") as file:
            file.seek(begin)
            return self._event(file.readline())

    def _event(self, line: bytes) -> LedgerEvent:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            number = self._line + 1
            raise UserError(f"{self._path}: line {number} is damaged: expected an event, got {line[:60]!r}")
        return cast(LedgerEvent, event)


class JsonFile:
    """The current value of a JSON file; it is read again only when it has changed."""

    def __init__(self, path: Path, default: Any) -> None:
        self._path, self._default = path, default
        self._mark: tuple[int, int] | None = None
        self.value: Any = default

    def refresh(self) -> bool:
        """Read the file if it has changed; returns whether the value may differ. A missing file has the default."""
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
