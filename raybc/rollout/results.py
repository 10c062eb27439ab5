"""What episodes add up to: counts of a row of results, pooled rates, the best sample setting."""

from __future__ import annotations

from typing import Any

from raybc.types import SampleSetting


def setting_of(row: dict[str, Any]) -> SampleSetting:
    return SampleSetting(row["flow_steps"], row["execute_steps"], row["eval_temperature"])


def rows_at(rows: list[dict[str, Any]], setting: SampleSetting) -> list[dict[str, Any]]:
    return [r for r in rows if setting_of(r) == setting]


def pooled_rate(rows: list[dict[str, Any]]) -> float:
    """Successes over valid episodes, over all rows (errors are in neither)."""
    episodes = sum(r["episodes"] for r in rows)
    return sum(r["successes"] for r in rows) / episodes if episodes else 0.0


def best_setting(rows: list[dict[str, Any]]) -> SampleSetting:
    """The sample setting with the highest success pooled over seeds; of equals, the one with fewest flow steps."""
    settings = sorted({setting_of(r) for r in rows}, key=lambda s: (s.flow_steps, s.execute_steps, s.eval_temperature))
    return max(settings, key=lambda s: pooled_rate(rows_at(rows, s)))  # max keeps the first of equals


def summarise(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of a row of results.jsonl from episode rows; errors are counted apart and averaged into nothing."""
    valid = [e for e in episodes if e["outcome"] != "error"]
    solved = [e for e in valid if e["outcome"] == "success"]
    return {
        "episodes": len(valid),
        "successes": len(solved),
        "timeouts": sum(e["outcome"] == "timeout" for e in valid),
        "failures": sum(e["outcome"] == "failure" for e in valid),
        "errors": len(episodes) - len(valid),
        "success_rate": len(solved) / len(valid) if valid else None,
        "mean_return": sum(e["return"] for e in valid) / len(valid) if valid else None,
        "mean_steps_success": sum(e["steps"] for e in solved) / len(solved) if solved else None,
        "eval_seconds": round(sum(e["seconds"] for e in episodes), 3),
        "retries": sum(e["retries"] for e in episodes),
        "episode_list": [[e["index"], e["outcome"], e["steps"], e["return"]] for e in episodes],
    }
