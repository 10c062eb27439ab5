"""Results of checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    level: Level
    check: str
    """What was checked."""
    message: str
    """What was found."""
    do: str = ""
    """What to do about it; empty if nothing needs to be done."""

    def line(self) -> str:
        return f"{self.level:7}  {self.check}: {self.message}" + (f"; {self.do}" if self.do else "")


def ok(check: str, message: str) -> Finding:
    return Finding("ok", check, message)


def warning(check: str, message: str, do: str) -> Finding:
    return Finding("warning", check, message, do)


def error(check: str, message: str, do: str) -> Finding:
    return Finding("error", check, message, do)


def summary(findings: Iterable[Finding]) -> str:
    levels = [f.level for f in findings]
    return f"{levels.count('error')} errors, {levels.count('warning')} warnings, {levels.count('ok')} checks passed"
