"""Numbers and values as text for people."""

from __future__ import annotations

import json
from typing import Any


def percent(rate: float | None) -> str:
    """0.96 -> '96.0 %'; None and nan -> '-'."""
    return "-" if rate is None or rate != rate else f"{100 * rate:.1f} %"


def percent_range(interval: tuple[float, float]) -> str:
    """(0.902, 0.984) -> '90.2-98.4 %'."""
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f} %"


def show(value: Any) -> str:
    """A swept value as text: 0.0003, true, [256, 256]."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def duration(seconds: float | None) -> str:
    """412 -> '6 min 52 s'; below a minute with one decimal; None -> '-'."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
