"""`Finding`: a fault of a data set, and `Report`: all of them.

Letter: E episodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.scan import Source

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One fault of a data set."""

    severity: Severity
    """Errors make training pointless or impossible; warnings may be intended."""
    kind: str
    """One of the kinds in docs/data.md, e.g. "not_finite"."""
    file: str
    """The file, or the folder of the data set."""
    key: str
    """The array, with its dimension if it is about one ("arm[2]"); "" if it is about none."""
    episodes: tuple[int, ...]
    """Numbers of the episodes that have the fault; () if it concerns the whole data set."""
    expected: str
    """What was expected."""
    found: str
    """What was found."""
    advice: str
    """What to do."""


@dataclass(frozen=True)
class Report:
    """All findings of a data set."""

    source: Source
    """The data set."""
    episodes: int
    """Number of episodes that were read."""
    transitions: int
    """Number of transitions that were read."""
    findings: tuple[Finding, ...]
    """Errors first."""
    success_E: np.ndarray | None = None
    """bool (E,); None where success is not known."""
    env_args: Mapping[str, Any] = field(default_factory=dict)
    """`EpisodeStore.env_args`."""
    remarks: tuple[str, ...] = ()
    """What is worth knowing and no fault, one line each."""
    built: EpisodeStore | None = None
    """What training would build, with arrays of zeros that take no memory; None where it cannot be read."""

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(f.severity == "error" for f in self.findings)

    @property
    def readable(self) -> bool:
        """Whether the data set could be read to its end."""
        return all(f.kind != "unreadable" for f in self.findings)

    def with_findings(self, more: Iterable[Finding]) -> Report:
        """A copy with more findings at the end."""
        return dataclasses.replace(self, findings=(*self.findings, *more))

    def as_json(self) -> dict[str, Any]:
        """What `verify --json` prints."""
        return {
            "path": str(self.source.path),
            "format": self.source.format,
            "episodes": self.episodes,
            "transitions": self.transitions,
            "errors": self.errors,
            "warnings": len(self.findings) - self.errors,
            "remarks": list(self.remarks),
            "findings": [dataclasses.asdict(f) for f in self.findings],
        }


def unreadable(path: Path, text: str) -> Finding:
    """The finding that `path` cannot be read. text: the message of the error."""
    expected, advice = "data that can be read to the end", "download or generate the data again"
    return Finding("error", "unreadable", str(path), "", (), expected, text, advice)
