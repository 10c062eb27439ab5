"""Numbers and values as text for people."""

from __future__ import annotations

import json
import math
from typing import Any


def percent(rate: float | None) -> str:
    """0.96 -> '96.0 %'; None and nan -> '-'."""
    return "-" if rate is None or rate != rate else f"{100 * rate:.1f} %"


def percent_range(interval: tuple[float, float]) -> str:
    """(0.902, 0.984) -> '90.2-98.4 %'."""
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f} %"


def show(value: Any) -> str:
    """A swept value as text: 0.0003, 8.3e-05, true, [256, 256]. `show` of numbers.js does the same.

    Numbers that people choose are exact; what a sampler drew has three significant digits, and near 1 those of what is
    missing to 1.
    """
    if value is None:
        return "-"
    if isinstance(value, float):
        return _number(value)
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float) -> str:
    size = abs(value)
    if value.is_integer() and size < 1e15:
        return f"{value:.0f}"
    exact = f"{value:.6g}"
    if not math.isfinite(value) or float(exact) == value:
        return exact
    if 0.9 < size < 1:
        return f"{value:.{min(2 - math.floor(math.log10(1 - size)), 15)}f}"
    return f"{value:.0f}" if 1000 <= size < 1e6 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """412 -> '6 min 52 s'; below ten seconds with one decimal; None -> '-'. `duration` of numbers.js does the same."""
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
