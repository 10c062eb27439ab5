"""What the report shows of single episodes: videos, and how episodes ended."""

from __future__ import annotations

from collections import Counter
from typing import Any

from raybc.report.films import embedded, films_of
from raybc.report.read import RunTables, totals

PHASES = ("search", "final")


def videos(run: RunTables) -> dict[str, Any]:
    """The films of the sweep, those of videos.json and those that were made later."""
    return embedded(run.path, films_of(run.folder, run.videos)) | {"note": run.timing.get("video_note")}


def outcomes(run: RunTables) -> list[dict[str, Any]]:
    """How episodes ended, on search and on final starts; kinds: of the errors."""
    found = []
    for phase in PHASES:
        rows = [row for row in run.results if row["phase"] == phase]
        counts = totals(rows, "successes", "timeouts", "failures", "errors")
        kinds: Counter[str] = Counter()
        for row in rows:
            kinds.update(row.get("errors_by_kind", {}))
        found.append({"phase": phase, "all": sum(counts.values()), **counts, "kinds": kinds.most_common()})
    return found
