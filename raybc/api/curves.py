"""Curves without a library: what is drawn, and how as SVG.

`raybc.api.figures` draws the same with plotly and Matplotlib.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#2878d0", "#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9", "#8a8420", "#3a9db0")
#: Size of a panel in pixels, and the room for its axes.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 210, 52, 10, 26, 34
#: More points of a line are thinned out in the SVG.
MOST_POINTS = 400


@dataclass(frozen=True)
class Series:
    """A line, or single points, over x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    interval: Sequence[tuple[float, float] | None] = ()
    """Of each point: the ends of its interval; () without any."""
    points: bool = False
    """Points alone, without a line."""


@dataclass(frozen=True)
class Panel:
    """A pair of axes with some series."""

    title: str
    x: str
    """What the x axis shows."""
    series: tuple[Series, ...]
    log: bool = False
    """Whether the y axis is logarithmic."""
    percent: bool = False
    """Whether y is a rate."""

    @property
    def is_log(self) -> bool:
        """Whether it is drawn with a logarithmic axis: where all values are positive."""
        return self.log and all(y > 0 for series in self.series for y in series.y)

    def values(self) -> list[float]:
        """Everything that the y axis must show."""
        ends = [end for s in self.series for pair in s.interval if pair is not None for end in pair]
        return [y for y in (*(y for s in self.series for y in s.y), *ends) if math.isfinite(y)]


def panel(title: str, x: str, *series: Series, log: bool = False, percent: bool = False) -> list[Panel]:
    """A panel with the series that have points; none where none has."""
    drawn = tuple(s for s in series if len(s.x))
    return [Panel(title, x, drawn, log, percent)] if drawn else []


def svg(shown: Panel) -> str:
    """The panel as SVG: text and lines, no script, no style sheet."""
    values = shown.values() or [0.0, 1.0]
    xs = [x for series in shown.series for x in series.x] or [0.0, 1.0]
    scale = math.log10 if shown.is_log else float
    low, high = (0.0, 1.0) if shown.percent else (scale(min(values)), scale(max(values)))
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    first, last = min(xs), max(xs)
    room = 0.5 if first == last else 0.04 * (last - first) if any(s.points for s in shown.series) else 0.0

    def at_x(x: float) -> float:
        return LEFT + (x - first + room) / (last - first + 2 * room) * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return TOP + (high - scale(y)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    names = shown.series if len(shown.series) > 1 else ()
    height = HEIGHT + 14 * -(-len(names) // 3)
    parts = [_axes(shown, low, high, [(x, at_x(x)) for x in sorted({first, (first + last) / 2, last})])]
    for place, series in enumerate(shown.series):
        colour = COLOURS[place % len(COLOURS)]
        every = -(-len(series.x) // MOST_POINTS)
        points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]
        kept = [*points[::every], *points[-1:]] if every > 1 else points
        for x, pair in zip(series.x, series.interval, strict=False):
            if pair is not None:
                where = f'x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" y1="{at_y(pair[0]):.1f}" y2="{at_y(pair[1]):.1f}"'
                parts.append(f'<line {where} stroke="{colour}" stroke-opacity="0.45" stroke-width="3"/>')
        if not series.points and len(kept) > 1:
            path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in kept)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if series.points or len(kept) <= 25:
            parts += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="2.4" fill="{colour}"/>' for x, y in kept]
        if names:
            where = f'x="{LEFT + 96 * (place % 3)}" y="{HEIGHT + 8 + 14 * (place // 3)}"'
            parts.append(f'<text {where} fill="{colour}" font-size="10">{html.escape(series.name[:16])}</text>')
    label = html.escape(f"{shown.title} over {shown.x}", quote=True)
    return (
        f'<svg width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}" '
        f'font-family="sans-serif" style="vertical-align:top" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _axes(shown: Panel, low: float, high: float, marks: Sequence[tuple[float, float]]) -> str:
    """The frame, the title and the numbers at it. low, high: on the scale of the y axis; marks: numbers of the x axis
    and where they are."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    title = html.escape(shown.title)
    parts = [
        f'<text x="{LEFT}" y="15" font-size="12" fill="currentColor">{title}</text>',
        f'<path d="M{LEFT},{TOP}V{bottom}H{right}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>',
    ]
    for part in (0.0, 0.5, 1.0):
        y, value = bottom - part * (bottom - TOP), low + part * (high - low)
        value = 10**value if shown.is_log else value
        text = f"{100 * value:.0f} %" if shown.percent else f"{value:.3g}"
        parts.append(
            f'<text x="{LEFT - 5}" y="{y + 4:.1f}" font-size="10" text-anchor="end" fill="currentColor">{text}</text>'
        )
    whole = all(float(x).is_integer() for series in shown.series for x in series.x)
    for x, at in marks:
        if not whole or float(x).is_integer():
            anchor = "end" if at > right - 12 else "start" if at < LEFT + 6 else "middle"
            where = f'x="{at:.1f}" y="{bottom + 13}" font-size="10" text-anchor="{anchor}"'
            parts.append(f'<text {where} fill="currentColor">{x:.6g}</text>')
    name = html.escape(shown.x)
    parts.append(
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 6}" font-size="10" text-anchor="middle" fill="currentColor">'
        f"{name}</text>"
    )
    return "".join(parts)
