"""What all pages share: templates, style and figures.

Text and grid colours of the plotly figures are set by the page, which follows the light or dark theme.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup

from raybc.cli import as_typed
from raybc.report import text
from raybc.types import UserError


def environment() -> jinja2.Environment:
    """The templates in this folder; values are escaped, and a missing value is an error."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("raybc.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        sentence=lambda text: text[:1].upper() + text[1:],
        nobreak=lambda text: str(text).replace(" ", "\N{NO-BREAK SPACE}"),
        span=lambda text: (text if " to " in text else text.replace("-", "\N{EN DASH}")).replace(
            " ", "\N{NO-BREAK SPACE}"
        ),
        pct=lambda rate: text.percent(rate).replace(" ", "\N{NO-BREAK SPACE}"),
        show=text.show,
        seconds=text.duration,
        as_typed=as_typed,
        plural=lambda count, word: f"{count} {word}{'' if count == 1 else 's'}",
    )
    return templates


#: What begins the pages that raybc may replace.
GENERATOR = '<meta name="generator" content="raybc'


def refuse_foreign(page: Path) -> None:
    """Raise `UserError` if `page` exists and is no page that raybc wrote, which may be replaced."""
    if page.is_dir() or (page.exists() and GENERATOR not in page.read_text(errors="replace")[:4000]):
        raise UserError(f"{page}: exists, and raybc did not write it; nothing was deleted: choose another --out")


@dataclass(frozen=True)
class Figure:
    """A plotly figure as JSON that is safe inside <script>, with a text for screen readers."""

    key: str
    title: str
    label: str
    spec: Markup
    height: int


def make_figure(
    key: str,
    title: str,
    label: str,
    traces: Sequence[Any],
    x: dict[str, Any],
    y: dict[str, Any],
    height: int = 400,
    shapes: Sequence[dict[str, Any]] = (),
) -> Figure:
    axis = {"automargin": True, "zeroline": False, "title_standoff": 10}
    figure = go.Figure(list(traces))
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 16, "t": 12, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "bgcolor": "rgba(0,0,0,0)"},
        hovermode="closest",
    )
    if shapes:
        figure.update_layout(shapes=list(shapes))
    figure.update_xaxes(**axis, **x)
    figure.update_yaxes(**axis, **y)
    return Figure(key, title, label, safe_json(json.loads(figure.to_json())), height)


def safe_json(value: Any) -> Markup:
    """A value as JSON that may stand inside <script>: nothing in it ends the element early."""
    text = json.dumps(value)
    for raw, safe in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(raw, safe)
    return Markup(text)


def rgba(colour: str, alpha: float) -> str:
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},{alpha})"
