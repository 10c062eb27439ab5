"""The figures of the report: learning curves, losses, success against each axis, and per cost of a chunk.

A trial looks the same in all of them. Trials with the same style share a trace, so that a page with thousands is fast.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from raybc.metric import Metric, score_of
from raybc.report.curves import loss_points
from raybc.report.page import Figure, make_figure, rgba
from raybc.report.read import RunTables
from raybc.report.sampling import Sampling, is_plain
from raybc.report.tables import LeaderboardRow
from raybc.report.text import show
from raybc.rows import setting_of

#: Maximum number of trials whose losses are drawn, the first of the leaderboard.
LOSS_TRIALS = 60
#: More lines of one style than this are drawn as one path.
LINES = 60
#: Offsets of trials that have the same value of a list.
SPREAD = (0, 0.09, -0.09, 0.18, -0.18, 0.045, -0.045, 0.135, -0.135, 0.225, -0.225)
#: With more points than this, points are smaller.
MANY = 100

_WINNER = "#2878d0"
_FINALISTS = ("#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9")
_REST = "#868c95"


def _score_axis(metric: Metric, where: str) -> dict[str, Any]:
    title = {"title_text": html.escape(f"{metric.label} on {where}" if metric.from_episodes else metric.label)}
    if metric.is_rate:
        return {**title, "range": [-0.04, 1.04], "tickformat": ".0%", "dtick": 0.2}
    return title


def _hover_format(metric: Metric, name: str = "y") -> str:
    """How plotly writes a score when the mouse is over it."""
    return f"%{{{name}:.1%}}" if metric.is_rate else f"%{{{name}:.5~g}}"


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
        elif row.final and row.status != "pruned" and (colour := next(colours, None)):
            styles[row.trial] = _Style(f"trial {row.trial} (finalist)", colour, 2.0, 0.95, "solid", "circle")
        elif row.status in ("pruned", "failed"):
            symbol = "x" if row.status == "failed" else "circle-open"
            styles[row.trial] = _Style(row.status, _REST, 1.2, 0.6, "dot", symbol)
        else:
            styles[row.trial] = _Style(f"other {row.status}", _REST, 1.6, 0.85, "solid", "circle")
    return styles


Curve = dict[int, list[float]]  # training step -> one value a seed


def _curve_traces(
    rows: list[LeaderboardRow], curves: Mapping[int, Curve], value: str, bands: bool
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Mean over seeds per trial and, below it, the band between the lowest and the highest seed; the winner on top.

    Returns traces, and the shapes that replace the lines if there are very many.
    """
    styles, below, all_bands = _styles(rows), [], few(rows)
    above: dict[str, _Lines] = {}
    for rank, row in reversed(list(enumerate(rows))):
        curve, style = curves.get(row.trial) or {}, styles[row.trial]
        if not curve:
            continue
        steps = sorted(curve)
        if bands and (all_bands or row.is_winner) and row.status != "pruned" and max(map(len, curve.values())) > 1:
            edge = [min(curve[step]) for step in steps] + [max(curve[step]) for step in reversed(steps)]
            fill = {"fill": "toself", "fillcolor": rgba(style.colour, 0.16), "line": {"width": 0}, "mode": "lines"}
            around = [*steps, *reversed(steps)]
            group = {"legendgroup": style.group, "showlegend": False, "hoverinfo": "skip"}
            below.append(go.Scatter(x=around, y=edge, **fill, **group))
        lines = above.setdefault(style.group, _Lines(style, rank + 1))
        lines.rank = rank + 1
        lines.add(row.trial, steps, [sum(curve[step]) / len(curve[step]) for step in steps])
    shapes = [lines.shape() for lines in above.values() if lines.count > LINES]
    return below + [lines.trace(value) for lines in above.values()], shapes


class _Lines:
    """The lines of one style as one trace, with a gap between trials."""

    def __init__(self, style: _Style, rank: int) -> None:
        self.style, self.rank, self.longest, self.count = style, rank, 0, 0
        self._path = ""
        self._x: list[int | None] = []
        self._y: list[float | None] = []
        self._trials: list[int | None] = []

    def add(self, trial: int, steps: list[int], values: list[float]) -> None:
        gap: list[Any] = [None] if self._x else []
        self._x += [*gap, *steps]
        self._y += [*gap, *values]
        self._trials += [*gap, *[trial] * len(steps)]
        self.longest = max(self.longest, len(steps))
        self.count += 1
        points = list(zip(map(float, steps), values, strict=True))
        if len(points) == 1:  # a single measurement: a short dash
            points.append((1.015 * steps[0], values[0]))
        self._path += "M" + "L".join(f"{step:g},{rate:.4g}" for step, rate in points)

    def shape(self) -> dict[str, Any]:
        """All lines as one path: a trace with gaps is a path for each, and a page with thousands opens slowly."""
        line = {"color": self.style.colour, "width": 1}
        return {"type": "path", "path": self._path, "line": line, "opacity": 0.35, "layer": "below"}

    def trace(self, value: str) -> Any:
        style, mode = self.style, "lines+markers" if self.longest <= 30 else "lines"
        return go.Scatter(
            x=self._x,
            y=self._y,
            customdata=self._trials,
            mode="none" if self.count > LINES else mode,
            name=html.escape(style.group) + (" (grey)" if self.count > LINES else ""),
            legendgroup=style.group,
            legendrank=self.rank,
            opacity=style.opacity,
            line={"color": style.colour, "width": style.width, "dash": style.dash},
            marker={"size": 3 + 1.5 * style.width, "color": style.colour},
            connectgaps=False,
            hovertemplate=f"trial %{{customdata}}, step %{{x:,}}: {value}<extra></extra>",
        )


def learning_curves(run: RunTables, rows: list[LeaderboardRow]) -> Figure | None:
    """The score on search starts over training steps, at the sample setting chosen for the trial."""
    metric = run.metric
    settings = {row.trial: row.setting for row in rows}
    curves: dict[int, Curve] = {}
    for result in run.results:
        trial, value = result["trial"], score_of([result], metric).value
        if result["phase"] == "search" and value is not None and setting_of(result) == settings.get(trial):
            curves.setdefault(trial, {}).setdefault(result["step"], []).append(value)
    traces, shapes = _curve_traces(rows, curves, _hover_format(metric), bands=True)
    what = f"{metric.label} on search starts" if metric.from_episodes else metric.label
    label = f"Line chart: {what} over training steps for {len(curves)} trials."
    x, y = {"title_text": "training step", "rangemode": "tozero"}, _score_axis(metric, "search starts")
    if not traces:
        return None
    return make_figure("curves", sentence(what), label, traces, x, y, 440, shapes)


def loss_curves(run: RunTables, rows: list[LeaderboardRow]) -> Figure | None:
    """Training loss of the first `LOSS_TRIALS` trials, mean over seeds, from the members' own logs."""
    curves: dict[int, Curve] = {}
    for row in rows[:LOSS_TRIALS]:
        for path in run.folder.member_logs(row.trial).values():
            for step, loss in loss_points(path):
                curves.setdefault(row.trial, {}).setdefault(step, []).append(loss)
    traces, _ = _curve_traces(rows, curves, "%{y:.4g}", bands=False)
    positive = all(min(values) > 0 for curve in curves.values() for values in curve.values())
    label = f"Line chart: training loss over training steps for {len(curves)} trials."
    x, y = {"title_text": "training step"}, {"title_text": "training loss"}
    if positive:
        y |= _log_axis([value for curve in curves.values() for values in curve.values() for value in values])
    return make_figure("losses", "Training loss", label, traces, x, y, 360) if traces else None


def _log_axis(values: list[float]) -> dict[str, Any]:
    """A logarithmic axis around the values whose labels do not overlap: decades, or 1, 2, 5 if these are few."""
    low, high = math.log10(min(values, default=1.0)), math.log10(max(values, default=1.0))
    room = 0.06 * (high - low) or 0.1
    ticks = {"dtick": "D2" if high - low < 1.6 else 1, "tickformat": "~g"}
    return {"type": "log", "range": [low - room, high + room], **ticks}


def axis_figures(run: RunTables, rows: list[LeaderboardRow]) -> list[Figure]:
    """Search score against every swept axis; values from a list are categories, in which points spread a little."""
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
            names = list(dict.fromkeys(map(show, [*(listed or ()), *(row.params[axis] for row in points)])))
            place, seen = {}, dict.fromkeys(names, 0)
            for row in points:
                name = show(row.params[axis])
                place[row.trial] = names.index(name) + SPREAD[seen[name] % len(SPREAD)]
                seen[name] += 1
            x |= {"tickvals": list(range(len(names))), "ticktext": [html.escape(name) for name in names]}
            x["range"] = [-0.5, len(names) - 0.5]
        traces = _scatter_traces(run.metric, points, place, axis)
        y = _score_axis(run.metric, "search starts")
        label = f"Scatter chart: {run.metric.label} on search starts against {axis}, {len(points)} trials."
        figures.append(make_figure(f"axis{number}", axis, label, traces, x, y, 290))
    return figures


def _scatter_traces(metric: Metric, points: list[LeaderboardRow], place: Mapping[int, float], axis: str) -> list[Any]:
    """A trace per style, the winner on top."""
    styles = _styles(points)
    groups: dict[_Style, list[LeaderboardRow]] = {}
    for row in reversed(points):
        groups.setdefault(styles[row.trial], []).append(row)
    return [
        go.Scatter(
            x=[place[row.trial] for row in rows],
            y=[row.score for row in rows],
            mode="markers",
            showlegend=False,
            marker={
                "color": style.colour,
                "size": 15 if rows[0].is_winner else 9 if len(points) <= MANY else 5,
                "symbol": style.symbol,
                "opacity": style.opacity,
            },
            **_hover(metric, rows, axis, len(points) > MANY),
        )
        for style, rows in groups.items()
    ]


def _hover(metric: Metric, rows: list[LeaderboardRow], axis: str, short: bool) -> dict[str, Any]:
    """The hover text of points; short: only number and score, for pages with thousands."""
    if short:
        template = f"trial %{{customdata}}: {_hover_format(metric)}<extra></extra>"
        return {"customdata": [row.trial for row in rows], "hovertemplate": template}
    texts = [
        html.escape(f"trial {row.trial} ({'winner' if row.is_winner else row.status})")
        + f"<br>{html.escape(axis)} = {html.escape(show(row.params[axis]))}<br>{metric.show(row.score)}"
        for row in rows
    ]
    return {"hovertext": texts, "hoverinfo": "text"}


def cost_figure(winner: LeaderboardRow | None) -> Figure | None:
    """The winner on final starts at every measured solver and flow_steps, with intervals."""
    if winner is None or not winner.per_sampling:
        return None
    plain = is_plain(winner.per_sampling)
    names = [_cost_name(at, plain) for at in winner.per_sampling]
    scores = list(winner.per_sampling.values())
    metric = scores[0].metric
    values = [score.value or 0.0 for score in scores]
    ends = [score.interval or (value, value) for score, value in zip(scores, values, strict=True)]
    bars = go.Bar(
        x=names,
        y=values,
        marker={"color": [_WINNER if at == winner.sampling else rgba(_WINNER, 0.45) for at in winner.per_sampling]},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [high - value for (_, high), value in zip(ends, values, strict=True)],
            "arrayminus": [value - low for (low, _), value in zip(ends, values, strict=True)],
            **{"color": _REST, "thickness": 2, "width": 7},
        },
        hovertemplate=f"{'flow_steps = ' * plain}%{{x}}: {_hover_format(metric)}<extra></extra>",
        width=0.5,
    )
    per = "flow_steps" if plain else "evaluations of the network"
    label = f"Bar chart: final {metric.label} of the winner per {per}; the table beside it has the numbers."
    x = {"title_text": per, "type": "category"}
    y = _score_axis(metric, "final starts")
    return make_figure("flow", f"Final {metric.label} per {per}", label, [bars], x, y, 300)


def _cost_name(at: Sampling, plain: bool) -> str:
    """`4`, or `4 (2 x heun)`."""
    return str(at.evaluations) if plain or not at.flow_steps else f"{at.evaluations} ({at.flow_steps} x {at.solver})"


def sentence(text: str) -> str:
    """`text` with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def few(rows: list[LeaderboardRow]) -> bool:
    return sum(row.status != "pruned" for row in rows) <= 6
