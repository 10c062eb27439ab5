"""What episodes add up to: the counts of a result row, pooled rates, the best sample setting, and metrics.json."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from raybc.rollout.faults import error_kind
from raybc.rows import (
    EpisodeCounts,
    EpisodeRow,
    EpisodeSummary,
    FirstError,
    ResultRow,
    SettingMetrics,
    rows_at,
    setting_of,
)
from raybc.statistics import bounds_with_errors, wilson_interval
from raybc.types import Outcome, SampleSetting


def pooled_rate(rows: Sequence[EpisodeCounts]) -> float:
    """Successes over valid episodes, over all rows (errors are in neither)."""
    episodes = sum(r["episodes"] for r in rows)
    return sum(r["successes"] for r in rows) / episodes if episodes else 0.0


def best_setting(rows: Sequence[ResultRow]) -> SampleSetting:
    """The sample setting with the highest success pooled over seeds; of equals, the one with fewest flow steps."""
    settings = sorted({setting_of(r) for r in rows}, key=dataclasses.astuple)
    return max(settings, key=lambda s: pooled_rate(rows_at(rows, s)))  # max keeps the first of equals


def value_of(outcome: Outcome) -> float:
    """Success as 1.0 or 0.0; nan for an error."""
    return math.nan if outcome == "error" else float(outcome == "success")


def summarise(episodes: Sequence[EpisodeRow]) -> EpisodeSummary:
    """The counts of a result row; errors are counted apart and averaged into nothing."""
    valid = [e for e in episodes if e["outcome"] != "error"]
    solved = [e for e in valid if e["outcome"] == "success"]
    summary: EpisodeSummary = {
        "episodes": len(valid),
        "successes": len(solved),
        "timeouts": sum(e["outcome"] == "timeout" for e in valid),
        "failures": sum(e["outcome"] == "failure" for e in valid),
        "errors": len(episodes) - len(valid),
        "success_rate": len(solved) / len(valid) if valid else None,
        "mean_return": _mean([e["return"] for e in valid]),
        "mean_max_reward": _mean([e["max_reward"] for e in valid]),
        "mean_steps_success": _mean([e["steps"] for e in solved]),
        "eval_seconds": round(sum(e["seconds"] for e in episodes), 3),
        "retries": sum(e["retries"] for e in episodes),
        "errors_by_kind": dict(Counter(error_kind(e) for e in episodes if e["outcome"] == "error")),
        "episode_list": [[e["index"], e["outcome"], e["steps"], e["return"]] for e in episodes],
    }
    # Keys of rare events are written only where they occurred.
    messages = {str(e["index"]): e["message"] for e in episodes if e["message"]}
    if messages:
        summary["messages"] = messages
    first = next((e for e in episodes if e["outcome"] == "error"), None)
    if first is not None:
        summary["first_error"] = first_error(first)
    truncated = sum(e.get("truncated", False) for e in valid)
    if truncated:
        summary["truncated"] = truncated
    at_reset = sum(e.get("solved_at_reset", False) for e in solved)
    if at_reset:
        summary["solved_at_reset"] = at_reset
    return summary


def first_error(row: EpisodeRow) -> FirstError:
    """What a row says about its error."""
    return {"index": row["index"], "message": row["message"], "traceback": row.get("traceback", "")}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def metrics(
    episodes: Sequence[EpisodeRow], *, has_success: bool, reference: tuple[float, float] | None
) -> SettingMetrics:
    """What metrics.json says about one sample setting.

    Success and its Wilson interval are None for a task that has no success signal. normalized_score is D4RL's,
    `100 (R - random) / (expert - random)` (Fu et al. 2020, arXiv:2004.07219), where `reference` gives the returns of
    both. failure_counts: timeout (step limit), exception (errors, which enter no average), other (the environment ended
    the episode). eval_time_sec: core seconds of the episodes.
    """
    counts = summarise(episodes)
    low, high = wilson_interval(counts["successes"], counts["episodes"])
    score = None
    if reference is not None and counts["mean_return"] is not None:
        score = 100 * (counts["mean_return"] - reference[0]) / (reference[1] - reference[0])
    found: SettingMetrics = {
        "episodes": counts["episodes"],
        "success_rate": counts["success_rate"] if has_success else None,
        "successes": counts["successes"] if has_success else None,
        "wilson_low": low if has_success else None,
        "wilson_high": high if has_success else None,
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
    if counts["errors"] and has_success:
        rate = counts["success_rate"] or 0.0
        found["success_bounds"] = list(bounds_with_errors(rate, counts["episodes"], counts["errors"]))
    if "first_error" in counts:
        found["first_error"] = counts["first_error"]
    if "truncated" in counts:
        found["truncated"] = counts["truncated"]
    if "solved_at_reset" in counts:
        found["solved_at_reset"] = counts["solved_at_reset"]
    return found
