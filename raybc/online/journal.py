"""The journal of own experience: which episodes there are, and from which update on each takes part in learning.

What training draws from at an update is a function of the journal, so a training that was killed repeats what it did.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.types import Outcome, UserError


@dataclass(frozen=True)
class Entry:
    """A line of the journal: one episode."""

    episode: int
    """Its number, from 0, in the order in which episodes were handed to simulators."""
    start: int
    """Index of its start in the split `online`."""
    outcome: Outcome
    """How it ended. One that ended in an error has no steps and is never learned from."""
    steps: int
    """Steps of the environment."""
    episode_return: float
    """Sum of its rewards; `return` in the file."""
    policy: int
    """Updates (gradient steps) after which the policy was taken that acted in it, from its beginning to its end."""
    lag: int
    """Updates that learning had done since then when the episode was back."""
    visible: int
    """The first update that draws from it, a border of the blocks of `raybc.train.step`."""

    def to_plain(self) -> dict[str, Any]:
        """As it is in the file."""
        return {"return" if name == "episode_return" else name: value for name, value in vars(self).items()}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Entry:
        """The entry of a line. Raises `TypeError` for other keys."""
        return cls(**{"episode_return" if name == "return" else name: value for name, value in row.items()})


class Journal:
    """An append-only file with one JSON object a line. A line counts once its end is on the disk."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one; what a killed process left after the last whole line is cut off.

        Raises `UserError` for a file that is damaged elsewhere.
        """
        self._path = path
        self.entries: list[Entry] = []
        """In the order in which they become visible."""
        if path.exists():
            self._read()

    def _read(self) -> None:
        content = self._path.read_bytes()
        lines = content.split(b"\n")
        whole = len(content) - len(lines.pop())
        for number, line in enumerate(lines):
            try:
                self.entries.append(Entry.of(json.loads(line)))
            except (ValueError, TypeError, AttributeError) as error:
                if number < len(lines) - 1:
                    raise UserError(
                        f"{self._path}: line {number + 1}: expected an episode, got a damaged line ({error}); the "
                        "journal says what the run has learned from: start it again with --overwrite"
                    ) from None
                whole -= len(line) + 1  # the disk lost power while it was written
        numbers = [entry.episode for entry in self.entries]
        if len(set(numbers)) != len(numbers):
            raise UserError(f"{self._path}: expected every episode once, got one twice; start again with --overwrite")
        if whole < len(content):
            with self._path.open("r+b") as handle:
                handle.truncate(whole)
                os.fsync(handle.fileno())
        self.entries.sort(key=lambda entry: entry.visible)

    def add(self, entries: Sequence[Entry]) -> None:
        """Append episodes; they are on the disk when this returns."""
        is_new = not self._path.exists()
        with self._path.open("ab") as handle:
            handle.write("".join(json.dumps(entry.to_plain()) + "\n" for entry in entries).encode())
            handle.flush()
            os.fsync(handle.fileno())
        if is_new:
            flush_folder(self._path.parent)
        self.entries += entries


def flush_folder(folder: Path) -> None:
    """Have the disk remember which files are in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
