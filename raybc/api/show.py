"""HTML for a cell: tables, curves and a video, in one block that loads nothing and runs no script."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.api.curves import Panel, svg
from raybc.report.text import show
from raybc.types import UserError

#: Larger videos are not embedded: a notebook holds every one of them as text.
MOST_BYTES = 4_000_000
#: Rows of a table in a cell; `frame()` has all.
MOST_ROWS = 12
#: Panels in a cell.
MOST_PANELS = 4


@dataclass(frozen=True)
class Video:
    """A film of an episode; a cell plays it."""

    path: Path
    """The mp4."""
    caption: str = ""
    """What it shows."""

    def __repr__(self) -> str:
        return f"Video({str(self.path)!r}{f', {self.caption}' if self.caption else ''})"

    def _repr_html_(self) -> str:
        return embedded(self, MOST_BYTES)


@dataclass(frozen=True)
class Facts:
    """What a cell shows of an object."""

    title: str
    facts: tuple[tuple[str, str], ...]
    """(name, text) of single facts."""
    header: tuple[str, ...] = ()
    """The head of its table; () without one."""
    rows: tuple[tuple[Any, ...], ...] = ()

    def text(self) -> str:
        """For a terminal: the title and the facts, a line each."""
        return "\n".join([self.title, *(f"  {name}: {text}" for name, text in self.facts)])

    def html(self, panels: Sequence[Panel] = (), video: Video | None = None) -> str:
        """For a cell, with curves and a video below the tables."""
        parts = [f"<b>{html.escape(self.title)}</b>", _table((), self.facts)]
        if self.header:
            parts.append(_table(self.header, self.rows[:MOST_ROWS]))
            if len(self.rows) > MOST_ROWS:
                parts.append(f"<div>{len(self.rows) - MOST_ROWS} more rows: <code>.frame()</code></div>")
        parts += [svg(panel) for panel in panels[:MOST_PANELS]]
        if video is not None:
            parts.append(embedded(video, MOST_BYTES // 2))
        return f"<div>{''.join(parts)}</div>"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Cells are text; the first column is the head of its row."""
    head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in header)
    body = []
    for first, *others in rows:
        cells = "".join(f"<td style='text-align:left'>{html.escape(_text(cell))}</td>" for cell in others)
        body.append(f"<tr><th style='text-align:left'>{html.escape(_text(first))}</th>{cells}</tr>")
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if header else ''}<tbody>{''.join(body)}</tbody></table>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else show(value)


def embedded(video: Video, most_bytes: int) -> str:
    """The video as HTML; its path alone where it is larger."""
    caption = html.escape(video.caption or video.path.name)
    path = html.escape(str(video.path), quote=True)
    if not video.path.is_file() or video.path.stat().st_size > most_bytes:
        return f"<div>{caption}: <code>{path}</code></div>"
    data = base64.b64encode(video.path.read_bytes()).decode("ascii")
    return (
        f"<figure style='margin:4px 0'><video controls loop muted playsinline width='256' title='{path}' "
        f"src='data:video/mp4;base64,{data}'></video><figcaption>{caption}</figcaption></figure>"
    )


def nth(videos: Sequence[Video], i: int, what: str, advice: str) -> Video:
    """The video at place `i`. Raises `UserError`, with `advice` where there are none."""
    if not videos:
        raise UserError(f"{what}: no episode was filmed; {advice}")
    if not -len(videos) <= i < len(videos):
        raise UserError(f"{what}: video: expected 0..{len(videos) - 1}, got {i}")
    return videos[i]
