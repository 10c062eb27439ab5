"""The page of an evaluation: its score with interval at each sample setting, and every episode."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from raybc.dashboard.state import resume_command
from raybc.files import is_worked_on, read_json
from raybc.metric import FORMER_KEY, KEY, METRICS, SUCCESS, Metric
from raybc.report.squares import EPISODES, START, shown_ends
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.results import by_task, end_states, metrics
from raybc.rows import EpisodeRow, SettingMetrics
from raybc.types import SPLIT_BASE, SampleSetting

#: Where the interval of a score that is no rate is in metrics.json.
_INTERVALS = {
    "return": "mean_return_interval",
    "largest_reward": "mean_max_reward_interval",
    "normalized_score": "normalized_score_interval",
}
#: Flags that say how many episodes are measured and where they go; a command that films one has its own.
_OWN_FLAGS = (
    "bundle", "episodes", "episodes_per_task", "first", "metric", "num_tasks", "record", "record_video", "starts",
    "suite", "tasks", "until_halfwidth", "video_output_dir", "videos",
)  # fmt: skip


def evaluation(path: Path) -> dict[str, Any]:
    """What the page shows. An evaluation that has not ended has the scores of its episodes so far. At most `EPISODES`
    episodes of them. Raises `UserError` for files that are not JSON."""
    folder = EvaluationFolder(path)
    request = read_json(folder.request)
    stored = read_json(folder.metrics) if folder.metrics.is_file() else None
    working = is_worked_on(path)
    settings = [SampleSetting(**setting) for setting in request["settings"]]
    rows = _rows(folder, settings)
    metric = _metric(request, stored)
    has_success = metric.is_rate
    if stored is not None:
        results = dict(zip(settings, stored["settings"], strict=False))
        has_success = any(one["success_rate"] is not None for one in stored["settings"])
    else:
        results = {
            setting: metrics(rows[setting], has_success=has_success, reference=None, metric=metric)
            for setting in settings
            if rows[setting]
        }
    tasks = list(request.get("tasks") or ())
    starts = request["starts"]
    state = "running" if working else "ended" if stored else "stopped"
    groups, left = [], EPISODES
    for setting in settings:
        for task, part in (by_task(rows[setting]) or {"": rows[setting]}).items():
            if part:
                groups.append(_group(folder, request, stored or {}, setting, task, part[:left]))
                left = max(0, left - len(part))
    return {
        "state": state,
        "resume": resume_command("rollout", path) if state == "stopped" and "flags" in request else "",
        "task": str(request.get("task") or ""),
        "tasks": tasks,
        "metric": metric.to_plain() | {"has_success": has_success},
        "policy": str(request.get("policy") or request.get("bundle") or ""),
        "step": request.get("step"),
        "run_id": request.get("run_id"),
        "starts": starts,
        "instruction": request.get("instruction", ""),
        "asked": starts["episodes"] * max(1, len(tasks)) * len(settings),
        "done": sum(map(len, rows.values())),
        "until_halfwidth": request.get("until_halfwidth") or None,
        "settings": [_result(setting.label(), result, metric) for setting, result in results.items()],
        "groups": groups,
    }


def _metric(request: Mapping[str, Any], stored: Mapping[str, Any] | None) -> Metric:
    settings = (stored or {}).get("settings") or [{}]
    return METRICS.get(settings[0].get("metric") or request.get(KEY) or request.get(FORMER_KEY, ""), SUCCESS)


def _rows(folder: EvaluationFolder, settings: Sequence[SampleSetting]) -> dict[SampleSetting, list[EpisodeRow]]:
    """The episodes of each setting in the order of their starts, without damaged lines: one may be half written."""
    found: dict[SampleSetting, dict[tuple[str, int], EpisodeRow]] = {setting: {} for setting in settings}
    names = SampleSetting().to_plain()
    for path in (folder.episodes, folder.partial):
        for line in path.open(encoding="utf-8", errors="replace") if path.is_file() else ():
            try:
                row = json.loads(line)
                setting = SampleSetting(**{name: row[name] for name in names if name in row})
                found[setting][str(row.get("task", "")), int(row["index"])] = cast(EpisodeRow, row)
            except (ValueError, KeyError, TypeError):
                continue
    return {
        setting: [row for _, row in sorted(rows.items(), key=lambda item: item[0][1])]
        for setting, rows in found.items()
    }


def scored(one: SettingMetrics, metric: Metric) -> tuple[float | None, list[float] | None]:
    """The score of a sample setting and its 95 % interval (None: unknown), as the terminal shows them."""
    found: Mapping[str, Any] = one
    if metric.name == "success":
        interval = found.get("success_interval") or [found.get("wilson_low"), found.get("wilson_high")]
        return found["success_rate"], None if None in interval else list(interval)
    return found.get("score"), found.get(_INTERVALS.get(metric.name, ""))


def _result(name: str, one: SettingMetrics, metric: Metric) -> dict[str, Any]:
    """A row of the table, with a row for each task where there are several."""
    value, interval = scored(one, metric)
    failed = one["failure_counts"]
    return {
        "name": name,
        "score": value,
        "interval": interval,
        "bounds": one.get("success_bounds"),
        "episodes": one["episodes"],
        "successes": one["successes"],
        "failures": failed["other"],
        "timeouts": failed["timeout"],
        "errors": failed["exception"],
        "return": one["mean_return"],
        "steps": one.get("avg_steps_success"),
        "tasks": [_result(task, part, metric) for task, part in one.get("tasks", {}).items()],
    }


def _group(
    folder: EvaluationFolder,
    request: Mapping[str, Any],
    stored: Mapping[str, Any],
    setting: SampleSetting,
    task: str,
    rows: Sequence[EpisodeRow],
) -> dict[str, Any]:
    """The episodes of a task at a sample setting, as raybc/report/shared/episodes.js has them.

    task: where there are several, else "".
    """
    starts = request["starts"]["set"]
    films = {}
    for place, row in enumerate(rows):
        video = row.get("video")
        path = folder.videos(setting) / video if video else None
        if path is not None and path.is_file():
            films[place] = {
                "file": path.relative_to(folder.path).as_posix(), "outcome": row["outcome"], "steps": row["steps"],
            }  # fmt: skip
    ends = end_states(rows)
    command = _film_command(request, setting, task)
    step = request.get("step")
    return {
        "key": f"{setting.slug()}-{task}",
        "name": task,  # the setting stands below it
        "phase": starts,
        "setting": setting.label(),
        "limit": (stored.get("tasks", {}).get(task) or stored).get("max_steps"),
        "base": SPLIT_BASE[starts],
        "tasks": [],
        "episodes": [[row["index"], row["outcome"], row["steps"], row["return"], row["max_reward"]] for row in rows],
        "messages": {str(row["index"]): row["message"] for row in rows if row["message"]},
        "films": films,
        "command": command,
        "why": "" if command else "Not filmed. An earlier release measured it, and kept no flags to film it with.",
        "policy": f"{request.get('policy') or request.get('bundle')}" + (f", step {step:,}" if step else ""),
        "ends": shown_ends(ends, [row["outcome"] == "success" for row in rows])
        if ends is not None and any(ends["values"])
        else None,
    }


def _film_command(request: Mapping[str, Any], setting: SampleSetting, task: str) -> str:
    """The command that films one start, named `START`; "" where the flags of the evaluation are not known."""
    flags = request.get("flags")
    if not isinstance(flags, dict) or not flags.get("bundle"):
        return ""
    kept = {name: value for name, value in flags.items() if name not in _OWN_FLAGS}
    sampled = setting.to_plain()
    kept |= {name: sampled[name] for name in kept if name in sampled}  # one of several values
    words = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in kept.items()
        if not isinstance(value, list) and value is not False
    ]  # fmt: skip
    count = ["--tasks", task, "--episodes_per_task=1"] if task else ["--episodes=1"]
    where = [f"--starts={request['starts']['set']}", f"--first={START}", *count, "--videos=1"]
    return shlex.join(["python", "-m", "raybc.rollout", str(flags["bundle"]), *words, *where])
