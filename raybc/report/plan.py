"""A sampling plan as a page with a heatmap, and as text.

Letters: E kept episodes, P anchors, K stages, J events; X columns of the heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raybc._version import __version__
from raybc.data.plan.exposure import Exposure, exposure
from raybc.data.plan.plan import SamplingPlan
from raybc.files import write_text
from raybc.report.page import Figure, environment, make_figure, rgba

#: Maximum number of episodes and columns of the heatmap; the page says what is left out.
MAX_ROWS = 240
MAX_COLUMNS = 600

_STAGES = ("#2878d0", "#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9", "#8a8420", "#3a9db0")
_NEUTRAL = "#868c95"


@dataclass(frozen=True)
class StageShare:
    """How often the windows of a stage are drawn."""

    stage: int
    anchors: int
    of_anchors: float
    """The stage's share of all anchors."""
    of_draws: float
    """Its share of all draws."""


def stage_shares(plan: SamplingPlan) -> list[StageShare]:
    count = plan.config.num_stages_K
    anchors_K = np.bincount(plan.stages_P, minlength=count)
    draws_K = np.bincount(plan.stages_P, plan.weights_P, minlength=count) / plan.weights_P.sum()
    return [
        StageShare(k, int(anchors_K[k]), float(anchors_K[k] / len(plan.stages_P)), float(draws_K[k]))
        for k in range(count)
    ]


def event_shares(plan: SamplingPlan) -> tuple[float, float] | None:
    """Shares of the anchors and of the draws whose window contains a gripper event; None without events."""
    if not len(plan.events_J):
        return None
    rows_P = plan.rows_of(plan.anchors_P)
    ends_P = np.minimum(plan.anchors_P + plan.config.horizon_length, (plan.begins_E + plan.lengths_E)[rows_P])
    inside_P = np.searchsorted(plan.events_J, plan.anchors_P) < np.searchsorted(plan.events_J, ends_P)
    return float(inside_P.mean()), float(plan.weights_P[inside_P].sum() / plan.weights_P.sum())


def exposures(plan: SamplingPlan, training_steps: Sequence[int]) -> dict[int, Exposure]:
    """Training steps -> exposure at the plan's batch size."""
    config = plan.config
    return {s: exposure(plan.weights_P, s * config.batch_size, config.replacement) for s in training_steps}


def facts(plan: SamplingPlan) -> dict[str, str]:
    """The key facts of a plan."""
    config = plan.config
    events = "off"
    if config.gripper_event_enabled:
        events = f"{len(plan.events_J)} in {len(np.unique(plan.rows_of(plan.events_J)))} episodes"
        shares = event_shares(plan)
        if shares:
            events += f"; in the window of {shares[0]:.1%} of the anchors and {shares[1]:.1%} of the draws"
    balance = f"inv_freq, p = {config.inv_freq_power:g}" if config.stage_balance == "inv_freq" else config.stage_balance
    relative = plan.weights_P / plan.weights_P.mean()
    scored = {}
    if plan.worth_E is not None:
        power = "" if config.score_power == 1 else f" to the power {config.score_power:g}"
        what = f"{config.score_column}{power}" if config.weights == "quality" else f"exp(advantage / {config.beta:g})"
        scored = {"Episode weights": f"{what}, {plan.worth_E.min():.3g} to {plan.worth_E.max():.3g}"}
    return {
        "Data": f"{plan.repo_id} ({plan.dataset_len:,} transitions)",
        "Episodes": f"{len(plan.episodes_E)} (seed {config.episode_selection_seed})",
        "Anchors": f"{len(plan.anchors_P):,} of {len(plan.fit_rows('episodes_valid')):,} valid starts, "
        f"every {plan.stride_used} steps",
        "Windows": f"{config.horizon_length} steps, tail_keep {config.tail_keep}",
        "Stages": f"{config.num_stages_K}, {config.stage_strategy}, {balance}",
        "Gripper events": events,
        **scored,
        "Weights": f"{relative.min():.2f} to {relative.max():.2f} times the mean",
        "Draws": f"{'with' if config.replacement else 'without'} replacement, sampler seed {config.sampler_seed}, "
        f"batches of {config.batch_size}",
    }


def as_text(plan: SamplingPlan, training_steps: Sequence[int]) -> str:
    """The plan in about twenty lines."""
    lines = [f"{name + ':':16}{value}" for name, value in facts(plan).items()]
    lines += [f"{'plan_sha256:':16}{plan.plan_sha256}", f"{'data:':16}{plan.dataset_fingerprint}"]
    lines += [f"{'note:':16}{note}" for note in plan.notes()]
    lines += ["", "stage  anchors  of anchors  of draws"]
    lines += [f"{s.stage:5}  {s.anchors:7,}  {s.of_anchors:10.1%}  {s.of_draws:8.1%}" for s in stage_shares(plan)]
    lines += ["", "training_steps       draws      ESS  expected_unique  expected_coverage  avg_repeat  repeat_eff"]
    lines += [
        f"{steps:14,}  {e.draws:10,}  {e.ess:7.0f}  {e.expected_unique:15.1f}  {e.expected_coverage:17.1%}  "
        f"{e.avg_repeat:10.1f}  {e.repeat_eff:10.1f}"
        for steps, e in exposures(plan, training_steps).items()
    ]
    return "\n".join(lines)


def write_plan_page(plan: SamplingPlan, path: Path, training_steps: Sequence[int]) -> None:
    """Write a self-contained HTML page."""
    context = {
        "version": __version__,
        "plan": plan,
        "drawn": drawn(plan),
        "notes": plan.notes(),
        "exposures": exposures(plan, training_steps),
        "parameters": plan.config.to_plain(),
        "plotly": Markup(get_plotlyjs()),
    }
    write_text(path, environment().get_template("plan.html.j2").render(context))


def drawn(plan: SamplingPlan) -> dict[str, Any]:
    """What plan_parts.html.j2 shows of a plan."""
    shown = min(len(plan.episodes_E), MAX_ROWS)
    return {
        "facts": facts(plan),
        "shares": stage_shares(plan),
        "heatmap": heatmap(plan),
        "bars": share_bars(plan),
        "shown": shown,
        "steps_a_column": _columns(plan, shown)[1],
    }


def heatmap(plan: SamplingPlan) -> Figure:
    """Episodes as rows, stages as colours, weights as opacity, events as markers."""
    shown = min(len(plan.episodes_E), MAX_ROWS)
    columns, width = _columns(plan, shown)
    y = list(range(shown))
    x = (np.arange(columns) * width + (width - 1) / 2).tolist()
    cells = _cells(plan, shown, columns, width, x, y)
    inside_EX = np.arange(columns) * width < plan.lengths_E[:shown, None]
    traces: list[Any] = [
        go.Heatmap(
            z=np.where(inside_EX & np.isnan(cells.z), 0.0, np.nan),
            x=x,
            y=y,
            colorscale=[[0, rgba(_NEUTRAL, 0.28)], [1, rgba(_NEUTRAL, 0.28)]],
            showscale=False,
            hoverinfo="skip",
            ygap=1 if shown <= 60 else 0,
        ),
        cells,
    ]
    rows_J = plan.rows_of(plan.events_J)
    drawn_J = rows_J < shown
    if drawn_J.any():
        traces.append(
            go.Scatter(
                x=plan.events_J[drawn_J] - plan.begins_E[rows_J[drawn_J]],
                y=rows_J[drawn_J],
                mode="markers",
                name="gripper event",
                marker={
                    "symbol": "diamond",
                    "size": 9 if shown <= 60 else 6,
                    "color": "#14171b",
                    "line": {"color": "#ffffff", "width": 1.2},
                },
                hovertemplate="gripper event at frame %{x}<extra></extra>",
            )
        )
    for k in range(plan.config.num_stages_K):
        square = {"symbol": "square", "size": 11, "color": _STAGES[k % len(_STAGES)]}
        traces.append(go.Scatter(x=[None], y=[None], mode="markers", name=f"stage {k}", marker=square))
    label = (
        f"Image of the plan: {shown} episodes as rows over frames, coloured by stage, more opaque where windows "
        f"are drawn more often, {int(drawn_J.sum())} gripper events as markers."
    )
    every = -(-shown // 40)
    x_axis = {"title_text": "frame of the episode", "showgrid": False, "range": [-1, columns * width]}
    y_axis = {
        "title_text": "episode",
        "tickvals": y[::every],
        "ticktext": [str(e) for e in plan.episodes_E[:shown:every]],
        "showgrid": False,
        "range": [shown - 0.5, -0.5],
    }
    height = 110 + min(max(shown * 26, 120), 900)
    return make_figure("heatmap", "The plan", label, traces, x_axis, y_axis, height)


def _columns(plan: SamplingPlan, shown: int) -> tuple[int, int]:
    """(columns of the heatmap, steps per column)."""
    longest = int(plan.lengths_E[:shown].max())
    width = -(-longest // MAX_COLUMNS)
    return -(-longest // width), width


def _cells(plan: SamplingPlan, shown: int, columns: int, width: int, x: list[float], y: list[int]) -> go.Heatmap:
    """Each anchor colours the steps up to the next one; a column with several shows the heaviest."""
    count = plan.config.num_stages_K
    rows_P = plan.rows_of(plan.anchors_P)
    order = np.argsort(plan.weights_P, kind="stable")
    order = order[rows_P[order] < shown]
    stages, weights, frames, rows = (a[order] for a in (plan.stages_P, plan.weights_P, plan.frames_P, rows_P))
    strength = stages + 0.999 * weights / weights.max()
    about = np.stack([frames, stages, np.round(weights / plan.weights_P.mean(), 3)], axis=1)
    z_EX = np.full((shown, columns), np.nan)
    about_EX3 = np.zeros((shown, columns, 3))
    for step in range(plan.stride_used):
        column = np.minimum(frames + step, plan.lengths_E[rows] - 1) // width
        z_EX[rows, column] = strength
        about_EX3[rows, column] = about
    scale = []
    for k in range(count):  # each stage has a part of the scale, from almost transparent to opaque
        colour = _STAGES[k % len(_STAGES)]
        scale += [[k / count, rgba(colour, 0.14)], [(k + 1) / count, rgba(colour, 1.0)]]
    return go.Heatmap(
        z=z_EX,
        x=x,
        y=y,
        zmin=0,
        zmax=count,
        colorscale=scale,
        showscale=False,
        hoverongaps=False,
        customdata=about_EX3,
        ygap=1 if shown <= 60 else 0,
        hovertemplate="start at frame %{customdata[0]}: stage %{customdata[1]}, "
        "%{customdata[2]:.2f} times the mean weight<extra></extra>",
    )


def share_bars(plan: SamplingPlan) -> Figure:
    """Each stage's share of the anchors beside its share of the draws."""
    shares = stage_shares(plan)
    names = [f"stage {s.stage}" for s in shares]
    colours = [_STAGES[s.stage % len(_STAGES)] for s in shares]
    hover = "%{x}: %{y:.1%} of the {}<extra></extra>"
    traces = [
        go.Bar(
            x=names,
            y=[s.of_anchors for s in shares],
            name="of the anchors",
            marker={"color": [rgba(c, 0.35) for c in colours]},
            hovertemplate=hover.replace("{}", "anchors"),
            showlegend=False,
        ),
        go.Bar(
            x=names,
            y=[s.of_draws for s in shares],
            name="of the draws",
            marker={"color": colours},
            hovertemplate=hover.replace("{}", "draws"),
            showlegend=False,
        ),
    ]
    label = "Bar chart: each stage's share of the anchors and of the draws; the table beside it has the numbers."
    y = {"tickformat": ".0%", "rangemode": "tozero"}
    return make_figure("shares", "Stages", label, traces, {"type": "category"}, y, 260)
