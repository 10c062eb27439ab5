"""What the page and the plots of a training show of its online part: scores over steps of the environment."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from raybc.files import read_json
from raybc.metric import Metric
from raybc.report.page import Figure, make_figure
from raybc.run_folder import TrainingFolder
from raybc.train.csv_rows import read_rows

_COLOURS = ("#2878d0", "#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9", "#8a8420", "#3a9db0")


@dataclass(frozen=True)
class OnlineRun:
    """The online part of one member."""

    seed: str
    metric: Metric
    first: int
    """Gradient steps of the offline part."""
    rows: list[dict[str, str]]
    """Of online.csv."""
    scores: list[tuple[int, float]]
    """(gradient steps, score), in order."""

    @classmethod
    def of(cls, folder: TrainingFolder) -> OnlineRun | None:
        """That of a member; None without an online part."""
        rows = read_rows(folder.online_csv)
        if not rows:
            return None
        flags, (metric, scores) = read_json(folder.flags), folder.scores()
        return cls(str(flags.get("seed", 0)), metric, int(flags["training_steps"]), rows, sorted(scores.items()))

    def environment_steps(self, step: int) -> int:
        """Steps of the environment that were learned from when `step` gradient steps were done."""
        return max((int(row["environment_steps"]) for row in self.rows if int(row["step"]) <= step), default=0)

    @property
    def over_environment(self) -> list[tuple[int, float]]:
        """(steps of the environment, score), from the end of the offline part on."""
        return [(self.environment_steps(step), score) for step, score in self.scores if step >= self.first]

    def column(self, name: str) -> list[tuple[int, float]]:
        """(steps of the environment, value) of the rows that have one."""
        return [(int(row["environment_steps"]), float(row[name])) for row in self.rows if row[name]]

    def facts(self) -> list[tuple[str, str]]:
        """Name and text of what the page lists."""
        last = self.rows[-1]
        waiting = [value for _, value in self.column("waiting")]
        lag = max((value for _, value in self.column("max_lag")), default=0)
        return [
            ("Steps of the environment", f"{int(last['environment_steps']):,}"),
            ("Episodes", f"{int(last['episodes']):,}, {int(last['errors']):,} errors"),
            ("Gradient steps", f"{self.first:,} offline, {int(last['updates']):,} online"),
            ("Oldest policy that acted", f"{lag:,.0f} gradient steps old"),
            ("Learning waited for simulators", f"{100 * sum(waiting) / len(waiting):.0f} % of the time"),
        ]


def online_figures(runs: Sequence[OnlineRun]) -> list[Figure]:
    """Scores of all members over steps of the environment and over both parts, and how collecting went."""
    metric = runs[0].metric
    title = f"{metric.label[0].upper()}{metric.label[1:]} on search starts"
    environment = {"title_text": "steps of the environment"}
    rate = {"title_text": "", **({"range": [-0.03, 1.03], "tickformat": ".0%"} if metric.is_rate else {})}
    first = runs[0].first
    shapes = [{
        "type": "line", "x0": first, "x1": first, "yref": "paper", "y0": 0, "y1": 1,
        "line": {"color": "#868c95", "width": 1.5, "dash": "dot"},
    }]  # fmt: skip
    return [
        make_figure(
            "online_score", f"{title}: online part", _label(runs, "scores over steps of the environment"),
            _lines(runs, [run.over_environment for run in runs], "steps of the environment"), environment, rate, 290,
        ),
        make_figure(
            "online_parts", f"{title}: offline part, then (dotted line) online part",
            _label(runs, "scores over gradient steps"),
            _lines(runs, [run.scores for run in runs], "gradient steps"), {"title_text": "gradient steps"}, rate, 290,
            shapes,
        ),
        make_figure(
            "online_success", "Success of the episodes that were collected",
            _label(runs, "success of collected episodes"),
            _lines(runs, [run.column("success") for run in runs], "steps of the environment"), environment,
            {"title_text": "", "range": [-0.03, 1.03], "tickformat": ".0%"}, 290,
        ),
        make_figure(
            "online_waiting", "Share of the time in which learning waited for simulators",
            _label(runs, "share of waiting"),
            _lines(runs, [run.column("waiting") for run in runs], "steps of the environment"), environment,
            {"title_text": "", "range": [-0.03, 1.03], "tickformat": ".0%"}, 290,
        ),
    ]  # fmt: skip


def _label(runs: Sequence[OnlineRun], what: str) -> str:
    return f"Line chart: {what}, {len(runs)} seed{'s' * (len(runs) > 1)}."


def _lines(runs: Sequence[OnlineRun], lines: Sequence[Sequence[tuple[int, float]]], unit: str) -> list[Any]:
    return [
        go.Scatter(
            x=[x for x, _ in line],
            y=[y for _, y in line],
            mode="lines+markers" if len(line) <= 40 else "lines",
            name=html.escape(f"seed {run.seed}"),
            line={"color": _COLOURS[i % len(_COLOURS)], "width": 2},
            hovertemplate=f"%{{x:,}} {unit}: %{{y:.4g}}<extra>seed {html.escape(run.seed)}</extra>",
        )
        for i, (run, line) in enumerate(zip(runs, lines, strict=True))
    ]
