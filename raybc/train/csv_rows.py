"""Rows of CSV files in the folder of a training run, one for each step that was measured."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raybc.files import replacing
from raybc.metric import FORMER_KEY, KEY

#: Column of train.csv with the name of the phase.
PHASE = "phase"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, column -> text; empty if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        return [{KEY if name == FORMER_KEY else name: v for name, v in row.items()} for row in csv.DictReader(handle)]


def append_row(path: Path, columns: Sequence[str], values: Sequence[Any]) -> None:
    """Add a row, see `append_rows`."""
    append_rows(path, columns, [values])


def append_rows(path: Path, columns: Sequence[str], new: Sequence[Sequence[Any]]) -> None:
    """Add rows of one step, the first column, replacing those of the same step (from an interrupted evaluation). None
    becomes an empty cell, and so does a column that a file of an earlier release lacks."""
    if not new:
        return
    step = str(new[0][0])
    rows = [[r.get(c) or "" for c in columns] for r in read_rows(path) if r["step"] != step]
    with replacing(path) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows([*rows, *(["" if v is None else str(v) for v in values] for values in new)])
