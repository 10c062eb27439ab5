"""The index: a row for every run folder below a folder, read as the files change."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from raybc.dashboard.folders import Found, Kind, describe, document_of, find_runs, kind_of, marks_of
from raybc.dashboard.several import sweep_row
from raybc.dashboard.view import RunView
from raybc.report.commands import near_path

#: Kinds of runs that have a page.
PAGES: tuple[Kind, ...] = ("sweep", "evaluation", "training")
#: Seconds that one answer may read sweeps that it does not know yet; the others follow with the next answers.
BUDGET = 1.0


class Index:
    """The run folders below a folder. Several threads may use it.

    A sweep that has ended is read once, and only its row is kept; the sweeps whose pages were opened, and those that
    run, stay in memory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._lock = threading.RLock()
        self._found: dict[str, Found] = {}
        self._rows: dict[str, tuple[tuple[tuple[int, int], ...], dict[str, Any]]] = {}
        self._views: dict[str, RunView] = {}
        self._opened: set[str] = set()

    def overview(self) -> dict[str, Any]:
        """What the page of the index shows: {"now", "folder", "runs": a row each, "waiting": sweeps not read yet}."""
        with self._lock:
            self._look()
            end = time.monotonic() + BUDGET
            rows = [self._row(found, end) for found in self._found.values()]
        return {
            "now": time.time(),
            "folder": near_path(self.root),
            "runs": rows,
            "waiting": sum(row.get("state") == "reading" for row in rows),
        }

    def view(self, key: str) -> RunView | None:
        """The sweep of a page; None if there is none of this name."""
        with self._lock:
            found = self.found(key)
            if found is None or found.kind != "sweep":
                return None
            self._opened.add(key)
            return self._views.setdefault(key, RunView(found.path))

    def found(self, key: str) -> Found | None:
        """The run of a page; None if there is none of this name."""
        with self._lock:
            if key not in self._found:
                self._look()
            return self._found.get(key)

    def views(self, keys: Sequence[str]) -> list[RunView] | None:
        """The sweeps of these names; None if one is missing."""
        found = [self.view(key) for key in keys]
        return None if None in found else [view for view in found if view is not None]

    def _look(self) -> None:
        self._found = {found.key: found for found in find_runs(self.root)}
        for kept in (self._rows, self._views):
            for key in kept.keys() - self._found.keys():
                del kept[key]

    def _row(self, found: Found, end: float) -> dict[str, Any]:
        marks = marks_of(found)
        known, row = self._rows.get(found.key, (None, {}))
        if known != marks:
            if found.kind != "sweep":
                row = describe(found)
            elif row or time.monotonic() < end:
                row = self._sweep(found)
            else:
                return self._about(found, marks) | {"state": "reading"}
            self._rows[found.key] = marks, row
        return self._about(found, marks) | row

    def _about(self, found: Found, marks: Sequence[tuple[int, int]]) -> dict[str, Any]:
        return {
            "key": found.key,
            "kind": found.kind,
            "name": found.path.relative_to(self.root).as_posix(),
            "path": near_path(found.path),
            "href": f"runs/{quote(found.key, safe='')}/" if found.kind in PAGES or document_of(found) else None,
            "changed": max((time_ns for time_ns, _ in marks), default=0) / 1e9,
        }

    def _sweep(self, found: Found) -> dict[str, Any]:
        view = self._views.setdefault(found.key, RunView(found.path))
        row = sweep_row(view)
        row.pop("curve", None)
        if not row.get("live") and found.key not in self._opened:
            del self._views[found.key]
        return row


def is_index(path: Path) -> bool:
    """Whether a folder is not a run itself but has run folders in it."""
    return path.is_dir() and kind_of(path) is None and bool(find_runs(path))
