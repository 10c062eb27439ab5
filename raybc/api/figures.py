"""Panels as figures of plotly or Matplotlib, and rows as a data frame of pandas; each is imported only here."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any, Literal

from raybc.api.curves import COLOURS, Panel, Series
from raybc.extras import require_extra
from raybc.types import UserError

Backend = Literal["plotly", "matplotlib"]


def frame_of(rows: Sequence[dict[str, Any]], what: str) -> Any:
    """The rows as a `pandas.DataFrame`. Raises `UserError` where pandas is not installed."""
    try:
        import pandas  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UserError(f"{what}.frame(): needs the package pandas: pip install pandas") from None
    return pandas.DataFrame(list(rows))


def figure_of(panels: Sequence[Panel], backend: Backend, what: str) -> Any:
    """A `plotly.graph_objects.Figure` or a `matplotlib.figure.Figure`. Raises `UserError` where there is nothing to
    draw, for another backend, and where Matplotlib is not installed."""
    if backend not in ("plotly", "matplotlib"):
        raise UserError(f"plot: expected plotly or matplotlib, got {backend!r}")
    if not panels:
        raise UserError(f"{what}: nothing was measured yet that could be drawn")
    return _plotly(panels) if backend == "plotly" else _matplotlib(panels)


def _plotly(panels: Sequence[Panel]) -> Any:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=[html.escape(p.title) for p in panels])
    for column, panel in enumerate(panels, 1):
        for place, series in enumerate(panel.series):
            trace = go.Scatter(
                x=list(series.x),
                y=list(series.y),
                name=html.escape(series.name),
                mode="markers" if series.points else "lines+markers" if len(series.x) <= 25 else "lines",
                line={"color": COLOURS[place % len(COLOURS)]},
                marker={"color": COLOURS[place % len(COLOURS)]},
                error_y=_bars(series),
                showlegend=len(panel.series) > 1,
            )
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=html.escape(panel.x), row=1, col=column)
        if panel.is_log:
            figure.update_yaxes(type="log", row=1, col=column)
        if panel.percent:
            figure.update_yaxes(tickformat=".0%", range=[-0.02, 1.02], row=1, col=column)
    figure.update_layout(width=430 * len(panels) + 90, height=340, template="plotly_white")
    return figure


def _bars(series: Series) -> dict[str, Any] | None:
    """Intervals as bars above and below the points."""
    if not series.interval:
        return None
    ends = [pair or (y, y) for pair, y in zip(series.interval, series.y, strict=True)]
    up = [high - y for (_, high), y in zip(ends, series.y, strict=True)]
    down = [y - low for (low, _), y in zip(ends, series.y, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down}


def _matplotlib(panels: Sequence[Panel]) -> Any:
    require_extra("plot", "plots", "matplotlib")
    from matplotlib.figure import Figure  # no pyplot: no global state, and no display

    class CellFigure(Figure):
        """Without pyplot no kernel knows how a cell shows a figure."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=80)
            return buffer.getvalue()

    figure = CellFigure(figsize=(4.6 * len(panels), 3.4), layout="tight")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for place, series in enumerate(panel.series):
            colour = COLOURS[place % len(COLOURS)]
            mark = "o" if series.points or len(series.x) <= 25 else ""
            line = "" if series.points else "-"
            bars = _bars(series)
            ends = [bars["arrayminus"], bars["array"]] if bars else None
            look = {"label": series.name, "color": colour, "marker": mark, "linestyle": line, "markersize": 3}
            axes.errorbar(series.x, series.y, ends, **look)
        axes.set_title(panel.title, fontsize="medium")
        axes.set_xlabel(panel.x)
        axes.grid(alpha=0.3)
        if panel.is_log:
            axes.set_yscale("log")
        if panel.percent:
            axes.set_ylim(-0.02, 1.02)
        if len(panel.series) > 1:
            axes.legend(fontsize="small")
    return figure
