"""What an evaluation writes: episodes.jsonl, metrics.json, versions.json, and a table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from raybc import cli
from raybc.files import write_json, write_text
from raybc.metric import score_of
from raybc.rollout.evaluation import EvaluationConfig
from raybc.rollout.faults import POLICY, error_kind
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.measured import MeasuredTask
from raybc.rollout.notices import first_error_text, notices
from raybc.rollout.results import first_error, metrics, summarise
from raybc.rollout.table import table, write_task_table
from raybc.rows import EpisodeRow, MetricsRow, setting_fields
from raybc.versions import versions


def write_results(
    out: EvaluationFolder,
    config: EvaluationConfig,
    measured: Sequence[MeasuredTask],
    changes: list[tuple[str, str, str, str]],
    rows: Sequence[Sequence[EpisodeRow]],
) -> None:
    """Write and print everything, then raise `cli.Failed` if some episodes could not be run."""
    identity = {name: value for one in measured for name, value in one.env_spec.identity.items()}
    has_success, reference = config.metric.has_success, _reference(measured)
    pairs = list(zip(config.settings, rows, strict=True))
    lines = [json.dumps({**setting_fields(setting), **row}) for setting, part in pairs for row in part]
    write_text(out.episodes, "".join(line + "\n" for line in lines))
    out.partial.unlink(missing_ok=True)
    results: list[MetricsRow] = [
        {
            **setting_fields(setting),
            "evaluations": config.policy.evaluations(setting),
            **metrics(part, has_success=has_success, reference=reference, metric=config.metric),
        }
        for setting, part in pairs
    ]
    write_json(
        out.metrics,
        {
            "bundle": config.policy.shown,
            "run_id": config.policy.run_id,
            "step": config.policy.step,
            "env_name": config.policy.env_name,
            **_tasks(config, measured),
            "starts": config.specs[0].split,
            "first": config.specs[0].index,
            "until_halfwidth": config.until_halfwidth or None,
            **({"instruction": config.instruction} if config.instruction else {}),
            "settings": results,
            "environment": identity,
            "versions_changed": [
                {"what": name, "since": since, "was": before, "is": now} for since, name, before, now in changes
            ],
        },
    )
    write_json(out.versions, versions(identity))
    if len(measured) > 1:
        write_task_table(out.tasks_csv, results, measured)
    cli.print_whole(table(results, has_success, reference is not None))
    _print_notices(config, rows)
    cli.console.print(f"episodes, metrics and videos: {out.path}")
    if config.video_folder is not None:
        cli.console.print(f"videos: {config.video_folder}")
    errors = [row for part in rows for row in part if row["outcome"] == "error"]
    if errors:
        cli.console.print(first_error_text(first_error(errors[0])), style="yellow")
        of = f" of {errors[0]['task']}" if "task" in errors[0] else ""
        mended = "policy answers again" if error_kind(errors[0]) == POLICY else "simulator is mended"
        raise cli.Failed(
            f"{len(errors)} of {sum(map(len, rows))} episodes ended in errors, e.g. start {errors[0]['index']}{of}: "
            f"{errors[0]['message']}; when the {mended}, the same command with --resume runs them again"
        )


def _reference(measured: Sequence[MeasuredTask]) -> tuple[float, float] | None:
    """The returns of D4RL's score, where all tasks have the same."""
    found = {one.task.reference_returns for one in measured}
    return found.pop() if len(found) == 1 else None


def _tasks(config: EvaluationConfig, measured: Sequence[MeasuredTask]) -> dict[str, Any]:
    """What metrics.json says about the tasks."""
    if len(measured) == 1:
        return {"task": config.task, "max_steps": measured[0].task.max_steps}
    tasks = {one.name: {"max_steps": one.task.max_steps, "instruction": one.task.instruction} for one in measured}
    return {"suite": config.suite or None, "tasks": tasks, "episodes_per_task": len(config.specs) // len(measured)}


def _print_notices(config: EvaluationConfig, rows: Sequence[Sequence[EpisodeRow]]) -> None:
    for setting, part in zip(config.settings, rows, strict=True):
        counts = summarise(part, config.metric)
        said = notices(counts, config.metric.has_success)
        if counts["errors"]:
            said.append(score_of([counts], config.metric).errors_text)
        where = f"{setting.label()}: " if len(config.settings) > 1 else ""
        cli.print_notes(where + text for text in said)
