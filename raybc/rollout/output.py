"""What a measurement leaves: episodes.jsonl, metrics.json, versions.json, and a table on the screen."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec
from raybc.files import write_json, write_text
from raybc.rollout.evaluation import PARTIAL, EvaluationConfig
from raybc.rollout.results import metrics
from raybc.versions import versions


def write_results(
    out: Path,
    measurement: EvaluationConfig,
    bundle: PolicyBundle,
    task: Task,
    probe: EnvSpec,
    changes: list[tuple[str, str, str, str]],
    rows: list[list[dict[str, Any]]],
) -> None:
    """Write and show; raises `cli.Failed` when episodes could not be run (everything is written first)."""
    pairs = list(zip(measurement.settings, rows, strict=True))
    lines = [json.dumps(asdict(setting) | row) for setting, part in pairs for row in part]
    write_text(out / "episodes.jsonl", "".join(line + "\n" for line in lines))
    (out / PARTIAL).unlink(missing_ok=True)
    results = [
        asdict(setting) | metrics(part, has_success=task.has_success, reference=task.reference_returns)
        for setting, part in pairs
    ]
    write_json(
        out / "metrics.json",
        {
            "bundle": str(measurement.bundle),
            "run_id": bundle.run_id,
            "step": bundle.step,
            "env_name": bundle.config.env_name,
            "task": measurement.task,
            "max_steps": task.max_steps,
            "starts": measurement.specs[0].split,
            "first": measurement.specs[0].index,
            "until_halfwidth": measurement.until_halfwidth or None,
            "settings": results,
            "environment": probe.identity,
            "versions_changed": [
                {"what": name, "since": since, "was": before, "is": now} for since, name, before, now in changes
            ],
        },
    )
    write_json(out / "versions.json", versions(probe.identity))
    cli.console.print(_table(task, results))
    cli.console.print(f"episodes, metrics and videos: {out}")
    errors = [row for part in rows for row in part if row["outcome"] == "error"]
    if errors:
        raise cli.Failed(
            f"{len(errors)} episode(s) could not be run, e.g. start {errors[0]['index']}: {errors[0]['message']}"
        )


def _table(task: Task, results: list[dict[str, Any]]) -> Table:
    columns = ["flow_steps"]
    columns += ["success", "95 % interval", "solved", "steps"] if task.has_success else []
    columns += ["return"]
    columns += ["D4RL score"] if task.reference_returns else []
    graded = any(row["mean_max_reward"] != row["success_rate"] for row in results)  # PushT's score is such a reward
    columns += ["best reward"] if graded else []
    table = Table(*columns, "missed", box=None)
    for row in results:
        cells = [str(row["flow_steps"])]
        if task.has_success:
            cells += [
                _show(row["success_rate"], 100, " %"),
                f"{100 * row['wilson_low']:.1f}-{100 * row['wilson_high']:.1f} %",
                f"{row['successes']}/{row['episodes']}",
                _show(row["avg_steps_success"]),
            ]
        cells += [_show(row["mean_return"], digits=2)]
        if task.reference_returns:
            cells += [_show(row["normalized_score"])]
        counts = row["failure_counts"]
        cells += [_show(row["mean_max_reward"], digits=3)] if graded else []
        cells += [", ".join(f"{count} {kind}" for kind, count in counts.items() if count)]
        table.add_row(*cells)
    return table


def _show(value: float | None, factor: float = 1.0, unit: str = "", digits: int = 1) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}{unit}"
