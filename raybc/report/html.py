"""Writes report.html: one self-contained page of a run folder, readable offline, in light and dark and on paper.

The figures are plotly figures whose colours of text and grid are left to the page, which knows light from dark.
plotly.js is inlined once; nothing is loaded from elsewhere, and a content security policy in the page says so.
"""

from __future__ import annotations

import base64
import csv
import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raybc.files import write_text
from raybc.report import tables
from raybc.report.page import Figure, environment, make_figure, rgba
from raybc.report.tables import LeaderboardRow, RunTables

#: Videos are embedded up to this many bytes in all, and linked beyond it.
VIDEO_LIMIT_BYTES = 40_000_000
#: Loss curves longer than this are averaged in bins.
LOSS_POINTS = 400

_WINNER = "#2878d0"
_FINALISTS = ("#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9")
_REST = "#868c95"


def write_report(run_dir: Path | str) -> Path:
    """Write run_dir/report.html from what is on disk. A folder that is not a run is a UserError."""
    run = tables.load_run(run_dir)
    text = environment().get_template("report.html.j2").render(_context(run))
    path = run.path / "report.html"
    write_text(path, text)
    return path


def _rate_axis(title: str) -> dict[str, Any]:
    return {"title_text": html.escape(title), "range": [-0.04, 1.04], "tickformat": ".0%", "dtick": 0.2}


@dataclass(frozen=True)
class _Style:
    """How a trial is drawn, the same in every figure: the winner strong, finalists coloured, the rest grey."""

    group: str
    colour: str
    width: float
    opacity: float
    dash: str
    symbol: str


def _styles(rows: list[LeaderboardRow]) -> dict[int, _Style]:
    colours = iter(_FINALISTS)
    styles = {}
    for row in rows:
        if row.is_winner:
            styles[row.trial] = _Style(f"trial {row.trial} (winner)", _WINNER, 3.5, 1.0, "solid", "star")
        elif row.final and (colour := next(colours, None)):
            styles[row.trial] = _Style(f"trial {row.trial} (finalist)", colour, 2.0, 0.95, "solid", "circle")
        elif row.status in ("pruned", "failed"):
            symbol = "x" if row.status == "failed" else "circle-open"
            styles[row.trial] = _Style(row.status, _REST, 1.2, 0.6, "dot", symbol)
        else:
            styles[row.trial] = _Style(f"other {row.status}", _REST, 1.6, 0.85, "solid", "circle")
    return styles


Curve = dict[int, list[float]]  # training step -> one value a seed


def _curve_traces(rows: list[LeaderboardRow], curves: Mapping[int, Curve], value: str, bands: bool) -> list[Any]:
    """Mean over seeds per trial and, below it, the band between the lowest and the highest seed; the winner on top."""
    styles, named, below, above, few = _styles(rows), set(), [], [], _few(rows)
    for rank, row in reversed(list(enumerate(rows))):
        curve, style = curves.get(row.trial) or {}, styles[row.trial]
        if not curve:
            continue
        steps = sorted(curve)
        means = [sum(curve[step]) / len(curve[step]) for step in steps]
        if bands and (few or row.is_winner) and row.status != "pruned" and max(map(len, curve.values())) > 1:
            edge = [min(curve[step]) for step in steps] + [max(curve[step]) for step in reversed(steps)]
            fill = {"fill": "toself", "fillcolor": rgba(style.colour, 0.16), "line": {"width": 0}, "mode": "lines"}
            around = [*steps, *reversed(steps)]
            group = {"legendgroup": style.group, "showlegend": False, "hoverinfo": "skip"}
            below.append(go.Scatter(x=around, y=edge, **fill, **group))
        above.append(
            go.Scatter(
                x=steps,
                y=means,
                mode="lines+markers" if len(steps) <= 30 else "lines",
                name=html.escape(style.group),
                legendgroup=style.group,
                legendrank=rank + 1,
                showlegend=style.group not in named,
                opacity=style.opacity,
                line={"color": style.colour, "width": style.width, "dash": style.dash},
                marker={"size": 3 + 1.5 * style.width, "color": style.colour},
                hovertemplate=f"trial {row.trial}, step %{{x:,}}: {value}<extra></extra>",
            )
        )
        named.add(style.group)
    return below + above


def learning_curves(run: RunTables, rows: list[LeaderboardRow]) -> Figure | None:
    """Success on search starts over training steps, at the sample setting chosen for the trial."""
    settings = {row.trial: row.setting for row in rows}
    curves: dict[int, Curve] = {}
    for result in run.results:
        if result.phase == "search" and result.episodes and result.setting == settings.get(result.trial):
            curve = curves.setdefault(result.trial, {})
            curve.setdefault(result.step, []).append(result.successes / result.episodes)
    traces = _curve_traces(rows, curves, "%{y:.1%}", bands=True)
    label = f"Line chart: success rate on search starts over training steps for {len(curves)} trials."
    x, y = {"title_text": "training step", "rangemode": "tozero"}, _rate_axis("success on search starts")
    return make_figure("curves", "Success on search starts", label, traces, x, y, 440) if traces else None


def loss_curves(run: RunTables, rows: list[LeaderboardRow]) -> Figure | None:
    """Training loss, mean over seeds, from the members' own logs."""
    curves: dict[int, Curve] = {}
    for row in rows:
        for path in sorted((run.path / "trials" / f"{row.trial:04d}").glob("seed_*/train.csv")):
            for step, loss in _binned(list(_losses(path))):
                curves.setdefault(row.trial, {}).setdefault(step, []).append(loss)
    traces = _curve_traces(rows, curves, "%{y:.4g}", bands=False)
    positive = all(min(values) > 0 for curve in curves.values() for values in curve.values())
    label = f"Line chart: training loss over training steps for {len(curves)} trials."
    x, y = {"title_text": "training step"}, {"title_text": "training loss"}
    if positive:
        y |= _log_axis([value for curve in curves.values() for values in curve.values() for value in values])
    return make_figure("losses", "Training loss", label, traces, x, y, 360) if traces else None


def _log_axis(values: list[float]) -> dict[str, Any]:
    """A logarithmic axis around the values with labels that do not collide: decades, or 1, 2, 5 where there are few."""
    low, high = math.log10(min(values, default=1.0)), math.log10(max(values, default=1.0))
    room = 0.06 * (high - low) or 0.1
    ticks = {"dtick": "D2" if high - low < 1.6 else 1, "tickformat": "~g"}
    return {"type": "log", "range": [low - room, high + room], **ticks}


def _losses(path: Path) -> Iterator[tuple[int, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or ()
        column = next((name for name in ("train/actor_loss", *names) if name in names and name.endswith("loss")), None)
        for line in reader:
            try:
                step, loss = int(float(line["step"])), float(line[column or ""])
            except (KeyError, TypeError, ValueError):  # a line that a killed writer left half done
                continue
            if math.isfinite(loss):
                yield step, loss


def _binned(points: list[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    size = -(-len(points) // LOSS_POINTS) or 1
    for start in range(0, len(points), size):
        part = points[start : start + size]
        yield part[-1][0], sum(loss for _, loss in part) / len(part)


def axis_figures(run: RunTables, rows: list[LeaderboardRow]) -> list[Figure]:
    """Search score against every swept axis; values from a list stand side by side, points spread a little."""
    space = run.config.get("space") or {}
    figures = []
    for number, axis in enumerate(run.axes):
        spec = space.get(axis)
        listed = spec.get("values", spec.get("choices")) if isinstance(spec, Mapping) else spec
        points = [row for row in rows if row.score is not None and row.params.get(axis) is not None]
        if not points:
            continue
        x: dict[str, Any] = {"title_text": html.escape(axis)}
        numeric = all(isinstance(row.params[axis], int | float) for row in points)
        if numeric and not isinstance(listed, list):
            place = {row.trial: float(row.params[axis]) for row in points}
            if isinstance(spec, Mapping) and spec.get("log") and min(place.values()) > 0:
                x |= _log_axis([*place.values(), float(spec["low"]), float(spec["high"])])
        else:
            names = list(dict.fromkeys(map(tables.show, [*(listed or ()), *(row.params[axis] for row in points)])))
            place, seen = {}, dict.fromkeys(names, 0)
            for row in points:
                name = tables.show(row.params[axis])
                place[row.trial] = names.index(name) + (0, 0.09, -0.09, 0.18, -0.18)[seen[name] % 5]
                seen[name] += 1
            x |= {"tickvals": list(range(len(names))), "ticktext": [html.escape(name) for name in names]}
            x["range"] = [-0.5, len(names) - 0.5]
        traces = _scatter_traces(points, place, axis)
        label = f"Scatter chart: success on search starts against {axis}, {len(points)} trials."
        figures.append(
            make_figure(f"axis{number}", axis, label, traces, x, _rate_axis("success on search starts"), 290)
        )
    return figures


def _scatter_traces(points: list[LeaderboardRow], place: Mapping[int, float], axis: str) -> list[Any]:
    styles, traces = _styles(points), []
    for row in reversed(points):
        style = styles[row.trial]
        size = 15 if row.is_winner else 9
        text = html.escape(f"trial {row.trial} ({'winner' if row.is_winner else row.status})")
        text += f"<br>{html.escape(axis)} = {html.escape(tables.show(row.params[axis]))}<br>{tables.percent(row.score)}"
        traces.append(
            go.Scatter(
                x=[place[row.trial]],
                y=[row.score],
                mode="markers",
                showlegend=False,
                marker={"color": style.colour, "size": size, "symbol": style.symbol, "opacity": style.opacity},
                hovertext=[text],
                hoverinfo="text",
            )
        )
    return traces


def flow_figure(winner: LeaderboardRow | None) -> Figure | None:
    """The winner on final starts at every flow_steps that was measured, with Wilson's intervals."""
    if winner is None or not winner.per_flow_steps:
        return None
    flows = winner.per_flow_steps
    chosen = winner.setting.flow_steps if winner.setting else None
    rates = [rate.rate for rate in flows.values()]
    bars = go.Bar(
        x=[str(flow) for flow in flows],
        y=rates,
        marker={"color": [_WINNER if flow == chosen else rgba(_WINNER, 0.45) for flow in flows]},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [rate.interval[1] - rate.rate for rate in flows.values()],
            "arrayminus": [rate.rate - rate.interval[0] for rate in flows.values()],
            **{"color": _REST, "thickness": 2, "width": 7},
        },
        hovertemplate="flow_steps = %{x}: %{y:.1%}<extra></extra>",
        width=0.5,
    )
    label = "Bar chart: final success of the winner per flow_steps; the table beside it has the numbers."
    x = {"title_text": "flow_steps", "type": "category"}
    return make_figure(
        "flow", "Final success per flow_steps", label, [bars], x, _rate_axis("success on final starts"), 300
    )


def _few(rows: list[LeaderboardRow]) -> bool:
    return sum(row.status != "pruned" for row in rows) <= 6


def _videos(run: RunTables) -> dict[str, Any]:
    """Videos with what a <video> needs: data URIs, or links when they are too large together."""
    root, found, lost = run.path.resolve(), [], []
    for video in run.videos:
        path = (root / str(video.get("file"))).resolve()
        if path.is_file() and path.is_relative_to(root):
            found.append((video, path))
        else:
            lost.append(str(video.get("file")))
    size = sum(path.stat().st_size for _, path in found)
    linked = size > VIDEO_LIMIT_BYTES
    items = []
    for video, path in found:
        if linked:
            source = quote(path.relative_to(root).as_posix())
        else:
            source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        items.append({"source": source, **dict.fromkeys(("outcome", "trial", "seed", "index"), "?"), **video})
    note = run.timing.get("video_note")
    return {"items": items, "linked": linked, "megabytes": size / 1e6, "lost": lost, "note": note}


def _notes(run: RunTables, rows: list[LeaderboardRow], errors: Mapping[str, int]) -> list[str]:
    """What a careful reader must know before the numbers are quoted."""
    notes = []
    if sum(errors.values()):
        parts = " and ".join(f"{count} on {phase} starts" for phase, count in errors.items() if count)
        notes.append(f"Simulator errors: {parts}. They are counted apart and are in no rate.")
    winner = next((row for row in rows if row.is_winner), None)
    asked = (run.config.get("final") or {}).get("episodes")
    for seed, rate in (winner.final_per_seed if winner else {}).items():
        if asked and rate.episodes != asked:
            notes.append(f"Winner, seed {seed}: {asked} final starts were asked for, {rate.episodes} gave a result.")
    seeds = run.config.get("seeds") or []
    if winner and winner.final and len(winner.final_per_seed) < len(seeds):
        notes.append(f"Winner: {len(winner.final_per_seed)} of {len(seeds)} seeds were measured on final starts.")
    if unfinished := sum(row.status in ("running", "waiting") for row in rows):
        notes.append(f"The sweep is not over: {unfinished} of {len(rows)} trials are running or waiting.")
    return notes


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _context(run: RunTables) -> dict[str, Any]:
    rows = tables.leaderboard(run)
    winner = next((row for row in rows if row.is_winner), None)
    errors = {phase: sum(r.errors for r in run.results if r.phase == phase) for phase in ("search", "final")}
    episodes = {phase: sum(r.episodes for r in run.results if r.phase == phase) for phase in ("search", "final")}
    return {
        "run": run,
        "rows": rows,
        "winner": winner,
        "winner_file": run.winner or {},
        "bundle": str(run.path / str((run.winner or {}).get("bundle") or "")) if run.winner else None,
        "quote": tables.winner_line(run, rows),
        "rule": tables.selection_rule(run),
        "counts": tables.status_counts(run),
        "notes": _notes(run, rows, errors),
        "errors": errors,
        "episodes": episodes,
        "flows": sorted({flow_steps for row in rows for flow_steps in row.per_flow_steps}),
        "failed": [row for row in rows if row.status == "failed"],
        "curves": learning_curves(run, rows),
        "losses": loss_curves(run, rows),
        "flow": flow_figure(winner),
        "axes": axis_figures(run, rows),
        "few": _few(rows),
        "videos": _videos(run),
        "search": _part(run.config, "search"),
        "prune": _part(run.config, "prune"),
        "evaluation": _part(run.config, "eval"),
        "final": _part(run.config, "final"),
        "data": _part(run.timing, "data"),
        "stages": _part(run.timing, "stages"),
        "packs": _part(run.timing, "packs"),
        "config_text": yaml.safe_dump(run.config, sort_keys=False, width=100),
        "versions": list(_flat(run.versions)),
        "plotly": Markup(get_plotlyjs()),
    }


def _part(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return dict(value) if isinstance(value, Mapping) else {}
