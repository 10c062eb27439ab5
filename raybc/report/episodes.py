"""What the report shows of single episodes: videos, and how episodes ended."""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any
from urllib.parse import quote

from raybc.report.read import RunTables, totals
from raybc.rollout.video import last_frame_jpeg
from raybc.rows import video_setting

#: Videos are embedded up to this many bytes in total; more are linked.
VIDEO_LIMIT_BYTES = 40_000_000
PHASES = ("search", "final")


def videos(run: RunTables) -> dict[str, Any]:
    """Videos with the attributes of <video>: data URIs, or links if they are too large together."""
    root, found, lost = run.path.resolve(), [], []
    for video in run.videos:
        path = (root / video["file"]).resolve()
        if path.is_file() and path.is_relative_to(root):
            found.append((video, path))
        else:
            lost.append(video["file"])
    size = sum(path.stat().st_size for _, path in found)
    linked = size > VIDEO_LIMIT_BYTES
    items = []
    for video, path in found:
        if linked:
            source = quote(path.relative_to(root).as_posix())
        else:
            source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        still = last_frame_jpeg(path)
        image = "data:image/jpeg;base64," + base64.b64encode(still).decode("ascii") if still else ""
        items.append(
            {"source": source, "still": image, **dict.fromkeys(("outcome", "trial", "seed", "index"), "?"), **video}
            | {"setting": video_setting(video).label() if "flow_steps" in video else ""}
        )
    note = run.timing.get("video_note")
    return {"items": items, "linked": linked, "megabytes": size / 1e6, "lost": lost, "note": note}


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
