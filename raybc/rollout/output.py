"""What an evaluation writes: episodes.jsonl, metrics.json, versions.json, and a table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.table import Table

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec
from raybc.files import write_json, write_text
from raybc.metric import METRICS, score_of
from raybc.report.sampling import Sampling, head, is_plain
from raybc.rollout.evaluation import EvaluationConfig
from raybc.rollout.notices import first_error_text, notices
from raybc.rollout.results import first_error, metrics, summarise
from raybc.rows import EpisodeRow, MetricsRow, setting_fields, setting_of
from raybc.run_folder import EvaluationFolder
from raybc.versions import versions


def write_results(
    out: EvaluationFolder,
    config: EvaluationConfig,
    bundle: PolicyBundle,
    task: Task,
    env_spec: EnvSpec,
    changes: list[tuple[str, str, str, str]],
    rows: Sequence[Sequence[EpisodeRow]],
) -> None:
    """Write and print everything, then raise `cli.Failed` if some episodes could not be run."""
    pairs = list(zip(config.settings, rows, strict=True))
    lines = [json.dumps({**setting_fields(setting), **row}) for setting, part in pairs for row in part]
    write_text(out.episodes, "".join(line + "\n" for line in lines))
    out.partial.unlink(missing_ok=True)
    results: list[MetricsRow] = [
        {
            **setting_fields(setting),
            "evaluations": bundle.config.policy.evaluations(setting),
            **metrics(part, has_success=task.has_success, reference=task.reference_returns, metric=config.metric),
        }
        for setting, part in pairs
    ]
    write_json(
        out.metrics,
        {
            "bundle": str(config.bundle),
            "run_id": bundle.run_id,
            "step": bundle.step,
            "env_name": bundle.config.env_name,
            "task": config.task,
            "max_steps": task.max_steps,
            "starts": config.specs[0].split,
            "first": config.specs[0].index,
            "until_halfwidth": config.until_halfwidth or None,
            **({"instruction": config.instruction} if config.instruction else {}),
            "settings": results,
            "environment": env_spec.identity,
            "versions_changed": [
                {"what": name, "since": since, "was": before, "is": now} for since, name, before, now in changes
            ],
        },
    )
    write_json(out.versions, versions(env_spec.identity))
    cli.print_whole(_table(task, results))
    _print_notices(config, task, rows)
    cli.console.print(f"episodes, metrics and videos: {out.path}")
    errors = [row for part in rows for row in part if row["outcome"] == "error"]
    if errors:
        cli.console.print(first_error_text(first_error(errors[0])), style="yellow")
        raise cli.Failed(
            f"{len(errors)} of {sum(map(len, rows))} episodes ended in errors, e.g. start {errors[0]['index']}: "
            f"{errors[0]['message']}; when the simulator is mended, the same command with --resume runs them again"
        )


def _print_notices(config: EvaluationConfig, task: Task, rows: Sequence[Sequence[EpisodeRow]]) -> None:
    for setting, part in zip(config.settings, rows, strict=True):
        counts = summarise(part, config.metric)
        said = notices(counts, task.has_success)
        if counts["errors"]:
            said.append(score_of([counts], config.metric).errors_text)
        where = f"{setting.label()}: " if len(config.settings) > 1 else ""
        cli.print_notes(where + text for text in said)


def _table(task: Task, results: Sequence[MetricsRow]) -> Table:
    costs = [Sampling.of(setting_of(row), row["evaluations"]) for row in results]
    plain = is_plain(costs)
    columns = head(plain)
    columns += ["success", "95 % interval", "solved", "steps"] if task.has_success else []
    columns += ["return", "95 % interval"]
    columns += ["D4RL score", "95 % interval"] if task.reference_returns else []
    graded = any(row["mean_max_reward"] != row["success_rate"] for row in results)  # PushT's score is such a reward
    columns += ["largest reward", "95 % interval"] if graded else []
    table = Table(*columns, "missed", "errors", box=None)
    for at, row in sorted(zip(costs, results, strict=True), key=lambda pair: pair[0]):
        cells = at.cells(plain)
        if task.has_success:
            cells += [
                _show(row["success_rate"], 100, " %"),
                f"{_show(row['wilson_low'], 100)}-{_show(row['wilson_high'], 100)} %",
                f"{row['successes']}/{row['episodes']}",
                _show(row["avg_steps_success"]),
            ]
        cells += _mean("return", row["mean_return"], row["mean_return_interval"])
        if task.reference_returns:
            cells += _mean("normalized_score", row["normalized_score"], row["normalized_score_interval"])
        counts = row["failure_counts"]
        if graded:
            cells += _mean("largest_reward", row["mean_max_reward"], row["mean_max_reward_interval"])
        missed = {kind: count for kind, count in counts.items() if count and kind != "exception"}
        cells += [", ".join(f"{count} {kind}" for kind, count in missed.items()), str(counts["exception"])]
        table.add_row(*cells)
    return table


def _mean(name: str, mean: float | None, interval: Sequence[float] | None) -> list[str]:
    """Two cells: a mean and its interval."""
    metric = METRICS[name]
    return [metric.show(mean), metric.show_range((interval[0], interval[1]) if interval else None)]


def _show(value: float | None, factor: float = 1.0, unit: str = "", digits: int = 1) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}{unit}"
