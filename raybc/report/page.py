"""What all pages share: templates, style and figures.

Figures are drawn by JavaScript: those that the dashboard shows as well by its own modules, from data that the page
carries, and the others from plotly JSON made here. Colours of text and grid are those of the light or dark theme.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup, escape

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
        breaks=lambda name: escape(name).replace("_", Markup("_<wbr>")),
        lines=lambda label: Markup("<br>").join(str(label).split(" ")),
        show=text.show,
        seconds=text.duration,
        as_typed=as_typed,
        plural=lambda count, word: f"{count} {word}{'' if count == 1 else 's'}",
    )
    templates.globals.update(script=script, safe_json=safe_json)
    return templates


#: What begins the pages that raybc may replace.
GENERATOR = '<meta name="generator" content="raybc'


def refuse_foreign(page: Path) -> None:
    """Raise `UserError` if `page` exists and is no page that raybc wrote, which may be replaced."""
    if page.is_dir() or (page.exists() and GENERATOR not in page.read_text(errors="replace")[:4000]):
        raise UserError(f"{page}: exists, and raybc did not write it; nothing was deleted: choose another --out")


#: Modules that every page carries: numbers and the drawing of figures, and at the end what starts them.
_FIRST, _LAST = ("numbers.js", "plots.js"), ("page.js",)
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=const|let|function|async|class)", re.MULTILINE)


def script(*modules: str) -> Markup:
    """`modules` of the dashboard and of this folder, with those that every page needs, as one module without imports:
    a file that is opened from a disk may load no other. Names at the top of these modules are therefore different."""
    here, shared = files("raybc.report"), files("raybc.dashboard") / "static"
    parts = []
    for name in (*_FIRST, *modules, *_LAST):
        found = shared / name if (shared / name).is_file() else here / name
        parts.append(_EXPORT.sub("", _IMPORT.sub("", found.read_text(encoding="utf-8"))))
    text = "".join(parts)
    if "</script" in text.lower() or "<!--" in text:
        raise AssertionError("a module of a page would end its <script>")
    return Markup(text)


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
    figure = go.Figure(list(traces))
    figure.update_layout(template="none", height=height)
    if shapes:
        figure.update_layout(shapes=list(shapes))
    figure.update_xaxes(**x)
    figure.update_yaxes(**y)
    return Figure(key, title, label, safe_json(json.loads(figure.to_json())), height)


def safe_json(value: Any) -> Markup:
    """A value as JSON that may stand inside <script>: nothing in it ends the element early."""
    text = json.dumps(value, separators=(",", ":"))
    for raw, safe in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(raw, safe)
    return Markup(text)


def rgba(colour: str, alpha: float) -> str:
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},{alpha})"
