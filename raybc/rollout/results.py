"""What episodes add up to: the counts of a result row, pooled rates, the best sample setting, and metrics.json."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

from raybc.metric import SUCCESS, Metric, normalized, score_of, summary
from raybc.rollout.faults import error_kind
from raybc.rows import (
    EndStates,
    EpisodeCounts,
    EpisodeRow,
    EpisodeSummary,
    FirstError,
    ResultRow,
    SettingMetrics,
    message_key,
    rows_at,
    setting_of,
)
from raybc.statistics import bounds_with_errors, mean_interval, stratified_mean_interval, wilson_interval
from raybc.types import SampleSetting

#: Keys of an `EpisodeSummary` that have an entry for each episode.
LISTS = ("episode_list", "messages", "end_states")


def pooled(rows: Sequence[EpisodeCounts], metric: Metric) -> float | None:
    """What rows are compared by, over all their episodes (`Score.cautious`); None if nothing was measured."""
    return score_of(rows, metric).cautious


def best_setting(rows: Sequence[ResultRow], metric: Metric) -> SampleSetting:
    """The sample setting with the best score pooled over seeds, errors counted against it (`Score.order`); of equals,
    the one with fewest evaluations of the network."""
    settings = sorted({setting_of(r) for r in rows}, key=lambda s: s.order)
    return min(settings, key=lambda s: score_of(rows_at(rows, s), metric).order)  # the first of equals


def summarise(episodes: Sequence[EpisodeRow], metric: Metric) -> EpisodeSummary:
    """The counts of a result row; errors are counted apart and averaged into nothing.

    Where the task tells no success, success_rate is None. `score` and `score_sd` are mean and standard deviation of the
    metric over valid episodes. Of several tasks, `success_rate` is the mean of their rates and `score` that of
    `raybc.metric.Score`; both are None while a task has no valid episode.
    """
    valid = [e for e in episodes if e["outcome"] != "error"]
    solved = [e for e in valid if e["outcome"] == "success"]
    largest = metric.name == "largest_reward"
    score, spread = summary([metric.of_episode(e) for e in episodes])
    found: EpisodeSummary = {
        "score": score,
        "score_sd": spread,
        "episodes": len(valid),
        "successes": len(solved),
        "timeouts": sum(e["outcome"] == "timeout" for e in valid),
        "failures": sum(e["outcome"] == "failure" for e in valid),
        "errors": len(episodes) - len(valid),
        "success_rate": len(solved) / len(valid) if valid and metric.has_success else None,
        "mean_return": _mean([e["return"] for e in valid]),
        "mean_max_reward": _mean([e["max_reward"] for e in valid]),
        "mean_steps_success": _mean([e["steps"] for e in solved]),
        "eval_seconds": round(sum(e["seconds"] for e in episodes), 3),
        "retries": sum(e["retries"] for e in episodes),
        "errors_by_kind": dict(Counter(error_kind(e) for e in episodes if e["outcome"] == "error")),
        "episode_list": [
            [e["index"], e["outcome"], e["steps"], e["return"], *([e["max_reward"]] if largest else [])]
            for e in episodes
        ],
    }
    # Keys of rare events are written only where they occurred.
    messages = {message_key(e["index"], e.get("task", "")): e["message"] for e in episodes if e["message"]}
    if messages:
        found["messages"] = messages
    ends = end_states(episodes)
    if ends is not None:
        found["end_states"] = ends
    first = next((e for e in episodes if e["outcome"] == "error"), None)
    if first is not None:
        found["first_error"] = first_error(first)
    truncated = sum(e.get("truncated", False) for e in valid)
    if truncated:
        found["truncated"] = truncated
    at_reset = [e for e in valid if e.get("solved_at_reset", False)]
    if at_reset:
        found["solved_at_reset"] = len(at_reset)
        found["successes_at_reset"] = sum(e["outcome"] == "success" for e in at_reset)
    parts = by_task(episodes)
    if parts:
        found["tasks"] = {name: _counts(summarise(part, metric)) for name, part in parts.items()}
        rates = [counts["success_rate"] for counts in found["tasks"].values()]
        known = [rate for rate in rates if rate is not None]
        found["success_rate"] = _mean(known) if len(known) == len(rates) else None
        found["score"] = score_of([found], metric).value
    return found


def end_states(episodes: Sequence[EpisodeRow]) -> EndStates | None:
    """The last observations of episodes; None where none were recorded."""
    first = next((e["final_obs"] for e in episodes if e.get("final_obs")), None)
    if first is None:
        return None
    sizes = {name: len(values) for name, values in first.items()}
    names = [f"{name}[{i}]" if size > 1 else name for name, size in sizes.items() for i in range(size)]
    values: list[list[float] | None] = []
    for episode in episodes:
        obs = episode.get("final_obs", {})
        numbers = [number for name in sizes for number in obs.get(name, [])]
        alike = {name: len(part) for name, part in obs.items()} == sizes
        values.append(numbers if alike and all(map(math.isfinite, numbers)) else None)
    return {"names": names, "values": values}


def by_task(episodes: Sequence[EpisodeRow]) -> dict[str, list[EpisodeRow]]:
    """Task -> its episodes, without the name of the task; {} where there is one task only."""
    found: dict[str, list[EpisodeRow]] = {}
    for row in episodes:
        if "task" in row:
            without = row.copy()
            found.setdefault(without.pop("task"), []).append(without)
    return found


def _counts(summary: EpisodeSummary) -> EpisodeCounts:
    """A summary without its list of episodes."""
    return cast(EpisodeCounts, {k: v for k, v in summary.items() if k not in LISTS})


def first_error(row: EpisodeRow) -> FirstError:
    """What a row says about its error."""
    found: FirstError = {"index": row["index"], "message": row["message"], "traceback": row.get("traceback", "")}
    if "task" in row:
        found["task"] = row["task"]
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _interval(groups: Sequence[Sequence[float]]) -> list[float] | None:
    """Of the mean of values, or of the mean of the means of several tasks."""
    strata = [(*summary(values), len(values)) for values in groups]
    found = mean_interval(*strata[0]) if len(strata) == 1 else stratified_mean_interval(strata)
    return None if found is None else list(found)


def _mean_of_means(groups: Sequence[Sequence[EpisodeRow]], key: Literal["return", "max_reward"]) -> float | None:
    """The mean over tasks of the mean of a value; None while a task has no valid episode."""
    means = [_mean([e[key] for e in group]) for group in groups]
    known = [mean for mean in means if mean is not None]
    return _mean(known) if len(known) == len(means) else None


def metrics(
    episodes: Sequence[EpisodeRow], *, has_success: bool, reference: tuple[float, float] | None, metric: Metric
) -> SettingMetrics:
    """What metrics.json says about one sample setting.

    Success and its Wilson interval are None for a task that has no success signal. The intervals of the other means are
    Student's t; None where values agree exactly. normalized_score is D4RL's,
    `100 (R - random) / (expert - random)` (Fu et al. 2020, arXiv:2004.07219), where `reference` gives the returns of
    both. failure_counts: timeout (step limit), exception (errors, which enter no average), other (the environment ended
    the episode). eval_time_sec: core seconds of the episodes.

    Of several tasks, rates and means are means over the tasks; their intervals are those of `raybc.statistics` for
    strata, and `tasks` has the same of each task.
    """
    counts = summarise(episodes, metric)
    parts = by_task(episodes)
    groups = [[e for e in part if e["outcome"] != "error"] for part in parts.values() or [list(episodes)]]
    if parts:
        counts["mean_return"] = _mean_of_means(groups, "return")
        counts["mean_max_reward"] = _mean_of_means(groups, "max_reward")
    low, high = wilson_interval(counts["successes"], counts["episodes"])
    returns, scores = _interval([[e["return"] for e in group] for group in groups]), None
    score = None
    if reference is not None and counts["mean_return"] is not None:
        score = normalized(counts["mean_return"], reference)
        scores = returns and [normalized(end, reference) for end in returns]
    found: SettingMetrics = {
        "metric": metric.name,
        "score": counts["score"],
        "mean_return_interval": returns,
        "mean_max_reward_interval": _interval([[e["max_reward"] for e in group] for group in groups]),
        "normalized_score_interval": scores,
        "episodes": counts["episodes"],
        "success_rate": counts["success_rate"] if has_success else None,
        "successes": counts["successes"] if has_success else None,
        "wilson_low": low if has_success and not parts else None,
        "wilson_high": high if has_success and not parts else None,
        "mean_return": counts["mean_return"],
        "mean_max_reward": counts["mean_max_reward"],
        "normalized_score": score,
        "avg_steps": _mean([e["steps"] for e in episodes if e["outcome"] != "error"]),
        "avg_steps_success": counts["mean_steps_success"],
        "eval_time_sec": counts["eval_seconds"],
        "failure_counts": {
            "timeout": counts["timeouts"],
            "exception": counts["errors"],
            "other": counts["failures"],
        },
        "retries": counts["retries"],
    }
    if parts:
        if has_success:
            whole = score_of([counts], replace(SUCCESS, over_tasks="mean"))
            found["success_interval"] = None if whole.interval is None else list(whole.interval)
        found["tasks"] = {
            name: metrics(part, has_success=has_success, reference=reference, metric=metric)
            for name, part in parts.items()
        }
    if counts["errors"] and has_success and parts:
        found["success_bounds"] = list(score_of([counts], SUCCESS).bounds or (0.0, 1.0))
    elif counts["errors"] and has_success:
        rate = counts["success_rate"] or 0.0
        found["success_bounds"] = list(bounds_with_errors(rate, counts["episodes"], counts["errors"]))
    if "first_error" in counts:
        found["first_error"] = counts["first_error"]
    if "truncated" in counts:
        found["truncated"] = counts["truncated"]
    if "solved_at_reset" in counts:
        found["solved_at_reset"] = counts["solved_at_reset"]
        found["successes_at_reset"] = counts["successes_at_reset"]
    return found
