"""What the checkpoints of a training run are compared by, from the rows of its evaluations."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from raybc.metric import METRICS, SUCCESS, Metric, Score, metric_name


def scores_of(eval_csv: Path, offline_csv: Path) -> tuple[Metric, dict[int, float]]:
    """What checkpoints are compared by, and step -> score of those that were measured.

    Errors count against a checkpoint (`Score.cautious`); where the worst an episode can be is unknown, one with too
    many errors is left out. The metric is that of the last row; rows of another one do not count. Earlier releases
    compared by success, without a simulator by valid_error, and wrote no `metric`.

    Args:
        eval_csv: `TrainingFolder.eval_csv`, which may be missing.
        offline_csv: `TrainingFolder.offline_csv`, which a run without a simulator has.
    """
    if offline_csv.is_file():
        with offline_csv.open(newline="") as handle:
            return _held_out_scores(list(csv.DictReader(handle)))
    if not eval_csv.is_file():
        return SUCCESS, {}
    with eval_csv.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    names = [metric_name(row) or "success" for row in rows]
    last = names[-1] if names else "success"
    found: dict[int, Score] = {}
    for name, row in zip(names, rows, strict=True):
        value = row.get("eval/score") or (row["eval/success"] if name == "success" else "")
        if name == last and value:
            episodes, errors = (int(row.get(column) or 0) for column in ("episodes", "errors"))
            found[int(row["step"])] = Score(METRICS[last], float(value), None, episodes, 0, errors)
    usable = {step: score for step, score in found.items() if not score.order[0]} or found
    return METRICS[last], {step: score.cautious or 0.0 for step, score in usable.items()}


def _held_out_scores(rows: Sequence[Mapping[str, str]]) -> tuple[Metric, dict[int, float]]:
    """The same of rows of offline.csv."""
    metric = METRICS[(metric_name(rows[-1]) if rows else "") or "valid_error"]
    # Every row has the error, also those of earlier releases and those that were compared by something else.
    column = "valid/error" if metric.name == "valid_error" else "valid/score"
    mine = [row for row in rows if column == "valid/error" or metric_name(row) == metric.name]
    return metric, {int(row["step"]): float(row[column]) for row in mine}
