"""Notes for people about what was left out or assumed: a line on stderr, each once in a process."""

from __future__ import annotations

import sys

_said: set[str] = set()


def note(text: str) -> None:
    """Print "note: TEXT" on stderr, unless this process has printed it before."""
    if text not in _said:
        _said.add(text)
        print(f"note: {text}", file=sys.stderr)
