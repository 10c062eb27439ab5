"""What a section of the benchmark measures, and how it is written down. It imports neither PyTorch nor raybc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: A figure as JSON: row, column, state, seconds, and value, unit, note and more, or message.
Row = dict[str, Any]

MEASURED, WRONG, LEFT_OUT, FAILED = "measured", "wrong", "left out", "failed"
#: States that make the exit status 1.
BAD = (WRONG, FAILED)


@dataclass(frozen=True)
class Measured:
    """The result of one measurement."""

    value: float
    unit: str
    note: str = ""
    """What belongs beside the number."""
    ok: bool = True
    """Whether it is as it must be."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON values."""


@dataclass(frozen=True)
class Task:
    """One measurement of a section: a cell of its table."""

    row: str
    column: str
    measure: Callable[[], Measured]


class LeftOut(Exception):
    """Raised by a task that cannot be measured here; the message says why."""


def text_of(row: Row) -> str:
    """One line for the terminal."""
    name = f"{row['row']}, {row['column']}"
    if row["state"] in (LEFT_OUT, FAILED):
        return f"{name}: {row['state']}: {row['message']}"
    note = f" ({row['note']})" if row["note"] else ""
    wrong = "   WRONG" if row["state"] == WRONG else ""
    return f"{name}: {number(row['value'], row['unit'])} {row['unit']}{note}{wrong}"


def number(value: float, unit: str) -> str:
    """The value of a figure with as many digits as it deserves."""
    if unit == "difference":
        return f"{value:.1e}" if value else "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def markdown(title: str, rows: Sequence[Row]) -> str:
    """The figures of a section as a table."""
    units = dict.fromkeys(row["unit"] for row in rows if "unit" in row)
    columns = list(dict.fromkeys(row["column"] for row in rows))
    names = list(dict.fromkeys(row["row"] for row in rows))
    cells = {(row["row"], row["column"]): _cell(row) for row in rows}
    lines = [f"**{title}**" + (f" ({', '.join(units)})" if units else ""), ""]
    lines += [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    lines += [f"| {name} | {' | '.join(cells.get((name, column), '') for column in columns)} |" for name in names]
    return "\n".join(lines) + "\n"


def _cell(row: Row) -> str:
    if row["state"] == LEFT_OUT:
        return "-" if row["message"] != OUT_OF_MEMORY else "memory"
    if row["state"] == FAILED:
        return "**failed**"
    share = row["more"].get("share_of_peak")
    text = number(row["value"], row["unit"]) + (f" ({share:.1%})" if share is not None else "")
    return f"**{text}**" if row["state"] == WRONG else text


#: Why a task was left out.
OUT_OF_TIME, OUT_OF_MEMORY = "out of time", "out of memory"
TOO_LONG = "it takes more than {} of the section's time"
