"""The results of an evaluation as a table: in the terminal, and of several tasks in tasks.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from raybc.files import write_text
from raybc.metric import METRICS
from raybc.report.sampling import Sampling, head
from raybc.rollout.measured import MeasuredTask
from raybc.rows import MetricsRow, SettingMetrics, setting_of

#: Sample axes beside those that decide what a chunk costs, which are columns where they differ.
AXES = ("execute_steps", "temporal_ensemble", "eval_temperature")
#: Name of the row of all tasks together.
ALL = "all tasks"


def table(results: Sequence[MetricsRow], has_success: bool, has_score: bool) -> Table:
    """A row for each sample setting; of several tasks one for each of them, and one for their mean."""
    settings = [setting_of(row) for row in results]
    costs = [Sampling.of(setting, row["evaluations"]) for setting, row in zip(settings, results, strict=True)]
    shown = head(costs)
    several = any("tasks" in row for row in results)
    varied = [name for name in AXES if len({getattr(setting, name) for setting in settings}) > 1]
    columns = [*shown, *varied] + (["task"] if several else [])
    columns += ["success", "95 % interval", "solved", "steps"] if has_success else []
    columns += ["return", "95 % interval"]
    columns += ["D4RL score", "95 % interval"] if has_score else []
    graded = any(row["mean_max_reward"] != row["success_rate"] for row in results)  # PushT's score is such a reward
    columns += ["largest reward", "95 % interval"] if graded else []
    found = Table(*columns, "missed", "errors", box=None)
    for at, result in sorted(zip(costs, results, strict=True), key=lambda pair: pair[0]):
        for name, row in _rows(result):
            cells = [*at.cells(shown), *(f"{getattr(setting_of(result), axis):g}" for axis in varied)]
            cells += [name] if several else []
            if has_success:
                cells += [
                    _show(row["success_rate"], 100, " %"),
                    _success_interval(row),
                    f"{row['successes']}/{row['episodes']}",
                    _show(row["avg_steps_success"]),
                ]
            cells += _mean("return", row["mean_return"], row["mean_return_interval"])
            if has_score:
                cells += _mean("normalized_score", row["normalized_score"], row["normalized_score_interval"])
            counts = row["failure_counts"]
            if graded:
                cells += _mean("largest_reward", row["mean_max_reward"], row["mean_max_reward_interval"])
            missed = {kind: count for kind, count in counts.items() if count and kind != "exception"}
            cells += [", ".join(f"{count} {kind}" for kind, count in missed.items()), str(counts["exception"])]
            found.add_row(*cells)
    return found


def _rows(result: MetricsRow) -> Iterator[tuple[str, SettingMetrics]]:
    """The rows of a sample setting: (task, its numbers), and those of all tasks last."""
    yield from result.get("tasks", {}).items()
    yield ALL, result


def _success_interval(row: SettingMetrics) -> str:
    if "success_interval" not in row:
        return f"{_show(row['wilson_low'], 100)}-{_show(row['wilson_high'], 100)} %"
    ends = row["success_interval"]
    return "-" if ends is None else f"{_show(ends[0], 100)}-{_show(ends[1], 100)} %"


def _mean(name: str, mean: float | None, interval: Sequence[float] | None) -> list[str]:
    """Two cells: a mean and its interval."""
    metric = METRICS[name]
    return [metric.show(mean), metric.show_range((interval[0], interval[1]) if interval else None)]


def _show(value: float | None, factor: float = 1.0, unit: str = "", digits: int = 1) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}{unit}"


#: Columns of tasks.csv beside the sample setting, the task and its instruction.
COLUMNS = (
    "episodes", "successes", "success_rate", "wilson_low", "wilson_high", "score", "mean_return", "mean_max_reward",
    "avg_steps", "avg_steps_success",
)  # fmt: skip


def write_task_table(path: Path, results: Sequence[MetricsRow], measured: Sequence[MeasuredTask]) -> None:
    """Write a row for each sample setting and task; a cell is empty where there is no such number."""
    text = io.StringIO()
    settings = [setting_of(row) for row in results]
    fields = list(dict.fromkeys(name for setting in settings for name in setting.to_plain()))
    writer = csv.writer(text)
    writer.writerow([*fields, "task", "instruction", *COLUMNS, "errors"])
    instructions = {one.name: one.task.instruction for one in measured}
    for setting, result in zip(settings, results, strict=True):
        for name, row in result.get("tasks", {}).items():
            cells = [row[column] for column in COLUMNS]  # type: ignore[literal-required]
            at = [getattr(setting, field) for field in fields]
            writer.writerow([*at, name, instructions[name], *cells, row["failure_counts"]["exception"]])
    write_text(path, text.getvalue())
