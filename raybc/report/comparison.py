"""Writes compare.html: one self-contained page about a comparison, without JavaScript and readable on paper."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.compare import text
from raybc.compare.design import Design
from raybc.compare.folder import CompareFolder
from raybc.compare.result import Comparison, PairResult, TaskResult
from raybc.files import write_text
from raybc.report.films import VIDEO_LIMIT_BYTES, images_of, source_of
from raybc.report.page import environment

#: Rows of the table of starts on which two arms differ; all are in comparison.json.
ROWS = 100
#: Parts of an episode's longest duration in which unsolved episodes end.
PARTS = 4

#: Clusters of unsolved episodes on the page; all are in comparison.json.
CLUSTERS = 12

#: Arm -> start -> its row (of the first training).
Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Bar:
    """An interval on a common scale, in percent of the width."""

    label: str
    shown: str
    low: float
    high: float
    point: float


def write_comparison_page(
    out: CompareFolder,
    comparison: Comparison,
    design: Design,
    rows: Rows,
    videos: Mapping[tuple[str, str], str],
    request: Mapping[str, Any],
    examples: Mapping[tuple[str, str], Path],
) -> None:
    """Write the page.

    Args:
        out: the folder of the comparison, which has the videos.
        comparison: what was found.
        design: how it was compared.
        rows: what each arm did on each start, as far as it is known.
        videos: (arm, start) -> name of a video in the arm's folder of videos.
        request: what was asked for.
        examples: (arm, start) -> video, of this comparison or of a finished measurement.
    """
    pairs = [_pair(pair, comparison, design, rows) for pair in comparison.pairs]
    films = _films(out, comparison.pairs[0], rows, videos)
    page = environment().get_template("comparison.html.j2").render(
        headline=text.verdict_text(comparison) if len(comparison.arms) > 2 else pairs[0]["said"].partition(":")[0],
        comparison=comparison,
        design=design,
        metric=design.metric,
        confidence=text.confidence(design),
        request=request,
        arms=_arm_bars(comparison, design),
        differences=_difference_bars(comparison, design),
        pairs=pairs,
        tasks=[_on_task(one, design) for one in comparison.tasks],
        ends=_ends(comparison, rows),
        clusters=_clusters(comparison, rows, examples, {(s["arm"], f["start"]) for f in films for s in f["sides"]}),
        parts=[f"{100 * i // PARTS}-{100 * (i + 1) // PARTS} %" for i in range(PARTS)],
        films=films,
    )  # fmt: skip
    write_text(out.page, page)


def _pair(pair: PairResult, comparison: Comparison, design: Design, rows: Rows) -> dict[str, Any]:
    several = len(comparison.arms) > 2
    a, b = rows.get(pair.a, {}), rows.get(pair.b, {})
    differing = [{"start": s, "a": a[s], "b": b[s]} for s in pair.differing if s in a and s in b]
    return {
        "pair": pair,
        "said": text.pair_text(pair, design, several),
        "details": text.details(pair, design),
        "paper": text.for_a_paper(pair, comparison, design),
        "p": text.p_text(pair.p_adjusted),
        "differing": differing[:ROWS],
        "left_out": max(0, len(pair.differing) - ROWS),
    }


def _on_task(one: TaskResult, design: Design) -> dict[str, Any]:
    """A row of the table of tasks."""
    metric = design.metric
    differences = [
        f"{text.difference_text(d.difference, metric)} ({text.range_text(d.interval, metric)})" for d in one.differences
    ]
    return {"task": one.task, "arms": [text.task_cell(arm, metric) for arm in one.arms], "differences": differences}


def _arm_bars(comparison: Comparison, design: Design) -> list[Bar]:
    """The arms on one scale: 0 to 100 % for a rate, otherwise what was measured."""
    metric = design.metric
    ends = [end for arm in comparison.arms for end in (*(arm.interval or ()), arm.mean) if end is not None]
    low, high = (0.0, 1.0) if metric.is_rate else _padded(ends)
    return [
        _bar(
            arm.name, f"{metric.show(arm.mean)} ({metric.show_range(arm.interval)})", arm.mean, arm.interval, low, high
        )
        for arm in comparison.arms
    ]


def _difference_bars(comparison: Comparison, design: Design) -> list[Bar]:
    """Differences of the pairs on a scale that is symmetric, so that 0 is in the middle."""
    ends = [abs(end) for p in comparison.pairs for end in (*(p.interval or ()), p.difference or 0.0)]
    most = max(ends, default=0.0) or 1.0
    return [
        _bar(
            f"{pair.a} - {pair.b}",
            f"{text.difference_text(pair.difference, design.metric)} ({text.range_text(pair.interval, design.metric)})",
            pair.difference, pair.interval, -most, most,
        )
        for pair in comparison.pairs
    ]  # fmt: skip


def _padded(ends: Sequence[float]) -> tuple[float, float]:
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def _bar(
    label: str, shown: str, value: float | None, interval: tuple[float, float] | None, low: float, high: float
) -> Bar:
    def place(x: float) -> float:
        return min(100.0, max(0.0, 100 * (x - low) / (high - low)))

    middle = low if value is None else value
    ends = interval or (middle, middle)
    return Bar(label, shown, place(ends[0]), place(ends[1]), place(middle))


def _ends(comparison: Comparison, rows: Rows) -> list[dict[str, Any]]:
    """How and when the episodes of each arm ended that did not solve the task."""
    known = [row for arm in rows.values() for row in arm.values() if row.get("steps")]
    longest = max((row["steps"] for row in known), default=0)
    found = []
    for arm in comparison.arms:
        mine = list(rows.get(arm.name, {}).values())
        unsolved = [row for row in mine if row["outcome"] == "failure"]
        when = [0] * PARTS
        for row in unsolved:
            if row.get("steps") and longest:
                when[min(PARTS - 1, (row["steps"] - 1) * PARTS // longest)] += 1
        counts = {
            kind: sum(row["outcome"] == kind for row in mine) for kind in ("success", "timeout", "failure", "error")
        }
        found.append({"name": arm.name, "counts": counts, "when": when if longest else None})
    return found if known else []


def _clusters(
    comparison: Comparison, rows: Rows, examples: Mapping[tuple[str, str], Path], above: Collection[tuple[str, str]]
) -> list[dict[str, Any]]:
    """The largest clusters of unsolved episodes, with a video of their examples while the page stays small.

    above: episodes whose videos the page has already.
    """
    found, room = [], VIDEO_LIMIT_BYTES
    for cluster in comparison.clusters[:CLUSTERS]:
        arm, start = cluster.example
        path = examples.get(cluster.example)
        shown: dict[str, str] = {}
        is_above = cluster.example in above
        if path is not None and not is_above and path.is_file() and path.stat().st_size <= room:
            room -= path.stat().st_size
            shown = _video(path, path.parent, linked=False)
        about = {"arm": arm, "start": start, "row": rows[arm][start], "above": is_above}
        found.append({"cluster": cluster, "video": shown, **about})
    return found


def _films(
    out: CompareFolder, pair: PairResult, rows: Rows, videos: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """Starts that were filmed, with the videos of both arms."""
    files = {key: out.videos(key[0]) / name for key, name in videos.items()}
    linked = sum(f.stat().st_size for f in files.values() if f.is_file()) > VIDEO_LIMIT_BYTES
    found = []
    for start in pair.differing:
        sides = [
            {"arm": arm, "row": rows[arm][start], **_video(files[arm, start], out.path, linked)}
            for arm in (pair.a, pair.b)
            if (arm, start) in files and files[arm, start].is_file()
        ]
        if sides:
            found.append({"start": start, "sides": sides})
    return found


def _video(path: Path, root: Path, linked: bool) -> dict[str, str]:
    return {"source": source_of(path, root, linked), **images_of(path)}
