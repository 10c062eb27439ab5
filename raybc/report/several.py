"""Writes sweeps.html: several sweeps side by side, as `raybc dashboard RUN RUN ...` shows them, in one file to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raybc.dashboard.several import overview
from raybc.dashboard.view import RunView
from raybc.files import write_text
from raybc.metric import Metric
from raybc.report.page import environment
from raybc.types import UserError

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
    curves = [{"name": run["name"], "curve": run["curve"]} for run in found["runs"]]
    rows = [_shown(run, metric) for run, metric in zip(found["runs"], metrics, strict=True)]
    page = environment().get_template("sweeps.html.j2").render(
        mark=Markup(MARK),
        runs=rows,
        label=metrics[0].label if found["one_metric"] else "score",
        data={"metric": metrics[0].to_plain(), "runs": curves if found["one_metric"] else []},
        one_metric=found["one_metric"],
        axes=_axes(found),
        options=found["options"],
        plotly=Markup(get_plotlyjs()),
    )  # fmt: skip
    write_text(out, page)
    return out


def _shown(run: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    """A row of the table, as text."""
    best = run["best"]
    shown = {"best": "-", "score": "-", "on": ""}
    if best:
        interval = None if best["interval"] is None else (best["interval"][0], best["interval"][1])
        score = f"{metric.show(best['score'])} ({metric.show_range(interval)})"
        shown = {"best": f"trial {best['trial']}", "score": score, "on": best["on"]}
    return {**run, **shown, "label": metric.label}


def _axes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The axes on which the best recipes differ, with a value for each sweep."""
    best = [run["best"] or {} for run in found["runs"]]
    rows = [{"name": axis, "values": [one.get("params", {}).get(axis) for one in best]} for axis in found["axes"]]
    settings = [one.get("setting") for one in best]
    return rows + ([{"name": "sample setting", "values": settings}] if len(set(settings)) > 1 else [])
