"""Curves of metrics.jsonl as PNG, drawn with Matplotlib, which is imported only here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raybc.extras import require_extra
from raybc.files import replacing
from raybc.rows import epoch_rows
from raybc.run_folder import TrainingFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: More action dimensions than this have no legend of their own.
MOST_NAMED = 16
Rows = Sequence[Mapping[str, Any]]


def draw(folder: TrainingFolder) -> list[Path]:
    """Draw what metrics.jsonl and action_norms.npz of a run folder hold into its `plots/`. Returns the files: none
    where nothing was measured.

    Raises `UserError` where Matplotlib is not installed.
    """
    rows = epoch_rows(folder.metrics_jsonl)
    if not rows:
        return []
    require_extra("plots", "plots", "matplotlib")
    mse = next(name for name in ("val_mse", "sample_mse") if name in rows[0])
    joints = [name for name in rows[0] if name.startswith("val_rmse_j")]
    plots: dict[str, Callable[[Axes], None]] = {
        "loss": lambda axes: _lines(axes, rows, ("train_loss", "val_loss"), "loss", log=True),
        "mse": lambda axes: _lines(axes, rows, (mse,), "mean squared error of held-out actions", log=True),
        "lr": lambda axes: _lines(axes, rows, ("lr",), "learning rate"),
        "rmse_joints": lambda axes: _lines(axes, rows, joints, "root mean squared error"),
        "cosine": lambda axes: _lines(axes, rows, ("val_cos",), "cosine of predicted and recorded actions"),
        "norms": lambda axes: _lines(axes, rows, ("val_norm_gt", "val_norm_pred"), "mean norm of actions"),
    }
    if folder.action_norms.exists():
        plots["norm_histograms"] = lambda axes: _histograms(axes, folder.action_norms)
    return [_draw(folder.plots / f"{name}.png", plot) for name, plot in plots.items()]


def _draw(path: Path, plot: Callable[[Axes], None]) -> Path:
    from matplotlib.figure import Figure  # no pyplot: no global state, and no display

    figure = Figure(figsize=(7, 4.2), layout="tight")
    axes = figure.subplots()
    plot(axes)
    axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def _lines(axes: Axes, rows: Rows, names: Sequence[str], label: str, log: bool = False) -> None:
    """Columns over epochs; a line where a phase begins."""
    epochs = [row["epoch"] for row in rows]
    lowest = np.inf
    for name in names:
        values = np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)
        lowest = min(lowest, float(np.nanmin(values, initial=np.inf)))
        axes.plot(epochs, values, label=name, marker="." if len(rows) < 40 else "")
    if log and 0 < lowest < np.inf:
        axes.set_yscale("log")
    for before, row in itertools.pairwise(rows):
        if row["phase"] != before["phase"]:
            between = (before["epoch"] + row["epoch"]) / 2
            axes.axvline(between, color="grey", linestyle=":")
            axes.text(between, 0.98, f" {row['phase']}", color="grey", va="top", transform=axes.get_xaxis_transform())
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    if len(names) <= MOST_NAMED:
        axes.legend(ncols=2 if len(names) > 4 else 1, fontsize="small")


def _histograms(axes: Axes, path: Path) -> None:
    """Norms of recorded and predicted actions, with the same bins."""
    with np.load(path) as saved:
        step, recorded, predicted = int(saved["step"]), saved["gt"], saved["pred"]
    both = np.concatenate([recorded, predicted])
    both = both[np.isfinite(both)]
    bins = np.histogram_bin_edges(both, bins=50)
    for values, name in ((recorded, "recorded"), (predicted, "predicted")):
        axes.hist(values[np.isfinite(values)], bins=bins.tolist(), alpha=0.55, label=name)
    axes.set_xlabel(f"norm of an action, step {step}")
    axes.set_ylabel("held-out actions")
    axes.legend(fontsize="small")
