"""Writes sweeps.html: several sweeps side by side, as `raybc dashboard RUN RUN ...` shows them, in one file to send."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raybc.dashboard.several import overview
from raybc.dashboard.view import RunView
from raybc.files import write_text
from raybc.metric import Metric
from raybc.report.page import Figure, environment, make_figure
from raybc.types import UserError

#: Colours of the sweeps, in their order.
COLOURS = ("#2878d0", "#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9")
_REST = "#868c95"
#: What such a page begins with; another file is not replaced.
MARK = '<meta name="generator" content="raybc report of several sweeps">'


def write_sweeps_page(views: Sequence[RunView], out: Path) -> Path:
    """Write the page to `out`. Raises `UserError` for a damaged sweep, and for a file that is no such page."""
    if out.exists() and (out.is_dir() or MARK not in out.read_text(encoding="utf-8", errors="replace")[:2000]):
        raise UserError(f"{out}: exists, and is no page of several sweeps; choose another with --out")
    found = overview(views)
    for run in found["runs"]:
        if "error" in run:
            raise UserError(run["error"])
    metrics = [view.state.metric for view in views]
    figures = [_figure(found["runs"], metrics[0], place) for place in (0, 1)] if found["one_metric"] else []
    rows = [_shown(run, metric, i) for i, (run, metric) in enumerate(zip(found["runs"], metrics, strict=True))]
    page = environment().get_template("sweeps.html.j2").render(
        mark=Markup(MARK),
        runs=rows,
        label=metrics[0].label if found["one_metric"] else "score",
        figures=[figure for figure in figures if figure is not None],
        one_metric=found["one_metric"],
        axes=_axes(found),
        options=found["options"],
        plotly=Markup(get_plotlyjs()),
    )  # fmt: skip
    write_text(out, page)
    return out


def _shown(run: Mapping[str, Any], metric: Metric, place: int) -> dict[str, Any]:
    """A row of the table, as text."""
    best = run["best"]
    shown = {"best": "-", "score": "-", "on": ""}
    if best:
        interval = None if best["interval"] is None else (best["interval"][0], best["interval"][1])
        score = f"{metric.show(best['score'])} ({metric.show_range(interval)})"
        shown = {"best": f"trial {best['trial']}", "score": score, "on": best["on"]}
    return {**run, **shown, "colour": COLOURS[place] if place < len(COLOURS) else _REST, "label": metric.label}


def _axes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The axes on which the best recipes differ, with a value for each sweep."""
    best = [run["best"] or {} for run in found["runs"]]
    rows = [{"name": axis, "values": [one.get("params", {}).get(axis) for one in best]} for axis in found["axes"]]
    settings = [one.get("setting") for one in best]
    return rows + ([{"name": "sample setting", "values": settings}] if len(set(settings)) > 1 else [])


def _figure(runs: Sequence[Mapping[str, Any]], metric: Metric, place: int) -> Figure | None:
    """The best score so far over trials (place 0) or hours (1); None where nothing is known."""
    over = ("trials that have ended", "hours since the first training began")[place]
    traces = []
    for i, run in enumerate(runs):
        points = [point for point in run["curve"] if point[place] is not None]
        if not points:
            continue
        colour = COLOURS[i] if i < len(COLOURS) else _REST
        traces.append(
            go.Scatter(
                x=[point[place] for point in points], y=[point[2] for point in points], name=html.escape(run["name"]),
                mode="lines+markers", line={"color": colour, "width": 2, "shape": "hv"},
                marker={"size": 4, "color": colour},
            )
        )  # fmt: skip
    if not traces:
        return None
    title = html.escape(f"{metric.label} on search starts" if metric.from_episodes else metric.label)
    y: dict[str, Any] = {"title_text": title}
    if metric.is_rate:
        y |= {"range": [-0.04, 1.04], "tickformat": ".0%", "dtick": 0.2}
    said = ", ".join(f"{run['name']} {metric.show(run['curve'][-1][2])}" for run in runs if run["curve"])
    label = f"Best {metric.label} so far over {over}: {said}"
    x = {"title_text": over, "rangemode": "tozero"}
    return make_figure(f"best-{place}", "Best so far", label, traces, x, y, height=380)
