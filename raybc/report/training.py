"""A training run as a page: what its policy would do, compared with the data, over epochs, and its online part.

The figures over epochs are a section of the report of a sweep, too, for its winner.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raybc.files import read_json, write_text
from raybc.report.online import OnlineRun, online_figures
from raybc.report.page import Figure, environment, make_figure, rgba
from raybc.rows import epoch_rows
from raybc.run_folder import TrainingFolder
from raybc.types import UserError

_COLOURS = ("#2878d0", "#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9", "#8a8420", "#3a9db0")
#: Bins of the histograms of norms.
BINS = 50
Rows = Sequence[Mapping[str, Any]]


def members_of(folder: Path) -> list[TrainingFolder]:
    """The members of a training run with one seed or several; empty if the folder is not one."""
    pack = TrainingFolder(folder).pack
    found = [folder / name for name in read_json(pack)["members"].values()] if pack.is_file() else [folder]
    return [TrainingFolder(path) for path in found if TrainingFolder(path).flags.is_file()]


def write_training_report(folder: TrainingFolder, members: Sequence[TrainingFolder] = ()) -> Path:
    """Write report.html of one member. members: all of its pack, whose online parts it shows. Raises `UserError` where
    there is nothing to show."""
    rows = epoch_rows(folder.metrics_jsonl)
    online = [run for run in map(OnlineRun.of, members or [folder]) if run is not None]
    if not rows and not online:
        raise UserError(
            f"{folder.path}: expected {folder.metrics_jsonl.name}, which a training with --action_metrics=1 writes, or "
            f"{folder.online_csv.name} of one with --online_steps; this run has none"
        )
    flags = read_json(folder.flags)
    context = {
        "name": folder.path.resolve().name,
        "flags": flags,
        "row": rows[-1] if rows else None,
        "online": online,
        "online_figures": online_figures(online) if online else [],
        "marks": folder.marked_best(),
        "figures": epoch_figures(folder),
        "commands": read_json(folder.run_args).get("commands", []) if folder.run_args.is_file() else [],
        "plotly": Markup(get_plotlyjs()),
    }
    write_text(folder.report, environment().get_template("training.html.j2").render(context))
    return folder.report


def epoch_figures(folder: TrainingFolder) -> list[Figure]:
    """The columns of metrics.jsonl over epochs, and histograms of norms; [] where nothing was measured."""
    rows = epoch_rows(folder.metrics_jsonl)
    if not rows:
        return []
    mse = next(name for name in ("val_mse", "sample_mse") if name in rows[0])
    joints = [name for name in rows[0] if name.startswith("val_rmse_j")]
    figures = [
        _lines(rows, "loss", "Loss", ("train_loss", "val_loss")),
        _lines(rows, "mse", "Mean squared error of held-out actions", (mse,)),
        _lines(rows, "rmse_joints", "Root mean squared error of each action dimension", joints),
        _lines(rows, "cosine", "Cosine of predicted and recorded actions", ("val_cos",)),
        _lines(rows, "norms", "Mean norm of actions", ("val_norm_gt", "val_norm_pred")),
        _lines(rows, "lr", "Learning rate", ("lr",)),
    ]
    return [*figures, _histograms(folder.action_norms)] if folder.action_norms.is_file() else figures


def _lines(rows: Rows, key: str, title: str, names: Sequence[str]) -> Figure:
    """Columns over epochs; a dotted line where a phase begins."""
    epochs = [row["epoch"] for row in rows]
    traces = [
        go.Scatter(
            x=epochs,
            y=[row.get(name) for row in rows],
            mode="lines+markers" if len(rows) <= 40 else "lines",
            name=html.escape(name.removeprefix("val_rmse_")),
            line={"color": _COLOURS[i % len(_COLOURS)], "width": 2},
            hovertemplate=f"epoch %{{x:,}}: %{{y:.4g}}<extra>{html.escape(name)}</extra>",
        )
        for i, name in enumerate(names)
    ]
    switches = [(a["epoch"] + b["epoch"]) / 2 for a, b in itertools.pairwise(rows) if a["phase"] != b["phase"]]
    line = {"color": "#868c95", "width": 1.5, "dash": "dot"}
    shapes = [{"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line} for x in switches]
    label = f"Line chart: {', '.join(names)} over {len(rows)} epochs."
    y: dict[str, Any] = {"title_text": ""}
    if key == "loss" and all((row.get(name) or 0) > 0 for row in rows for name in names):
        y |= {"type": "log", "tickformat": "~g"}
    if key == "lr":  # plotly would show a constant rate as 0 between -1 and 1
        y["range"] = [0, 1.1 * max(row["lr"] or 0 for row in rows) or 1]
    return make_figure(f"epochs_{key}", title, label, traces, {"title_text": "epoch"}, y, 290, shapes)


def _histograms(path: Path) -> Figure:
    with np.load(path) as saved:
        step, norms = int(saved["step"]), {"recorded": saved["gt"], "predicted": saved["pred"]}
    both = np.concatenate(list(norms.values()))
    edges = np.histogram_bin_edges(both[np.isfinite(both)], bins=BINS)
    bars = [
        go.Bar(
            x=edges[:-1].tolist(),
            y=np.histogram(values[np.isfinite(values)], bins=edges)[0].tolist(),
            width=float(edges[1] - edges[0]),
            name=name,
            marker={"color": rgba(colour, 0.55)},
            offset=0,
            hovertemplate=f"%{{x:.3g}}: %{{y}} actions<extra>{name}</extra>",
        )
        for (name, values), colour in zip(norms.items(), _COLOURS, strict=False)
    ]
    label = f"Histograms of the norms of {len(both) // 2} recorded and predicted actions at step {step}."
    title, x = f"Norms of held-out actions at step {step}", {"title_text": "norm"}
    return make_figure("epochs_norm_histograms", title, label, bars, x, {"title_text": ""}, 290)
