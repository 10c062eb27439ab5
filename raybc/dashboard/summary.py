"""A trial as the page shows it, in a few hundred bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from raybc.metric import Metric, Score, score_of
from raybc.report.points import by_setting, curve_point, short
from raybc.report.read import totals
from raybc.rows import ResultRow, rows_at
from raybc.statistics import seed_interval
from raybc.sweep.ledger import TrialState
from raybc.types import SampleSetting

R = TypeVar("R", bound=ResultRow)


def summary(trial: TrialState, setting: SampleSetting | None, videos: int, metric: Metric) -> dict[str, Any]:
    """A trial in a few hundred bytes. Scores are those of `setting`, pooled over seeds, without errors.

    curve: [step, score, lowest and highest seed, 95 % interval (null: none), episodes] for each evaluation. ends: of
    the final starts, or of the last evaluation of a trial that was not measured on any.
    """
    rows = [row for evaluation in trial.evaluations for row in evaluation.rows] + trial.final_rows
    kinds: Counter[str] = Counter()
    for row in rows:
        kinds.update(row.get("errors_by_kind") or ({"unknown": row["errors"]} if row["errors"] else {}))
    curve = []
    for evaluation in trial.evaluations:
        here = _measured(evaluation.rows, setting, metric)
        if here:
            curve.append([evaluation.step, *curve_point(here, metric)])
    final = _measured(trial.final_rows, setting, metric)
    last = final or (_measured(trial.evaluations[-1].rows, setting, metric) if trial.evaluations else [])
    return {
        "n": trial.number,
        "status": trial.status,
        "score": trial.score,
        "interval": curve[-1][4:6] if curve and curve[-1][4] is not None else None,
        "step": trial.evaluations[-1].step if trial.evaluations else 0,
        "done": len(trial.evaluations),
        "origin": trial.origin,
        "reason": trial.reason or (f"shown to be worse than {trial.evaluations[-1].beaten}" if _beaten(trial) else ""),
        "params": trial.params,
        "setting": setting.label() if setting else "",
        "curve": curve,
        "by_setting": by_setting(trial.evaluations[-1].rows if trial.evaluations else [], metric),
        "final": _final(final, metric) if final else None,
        **totals(rows, "episodes", "successes", "timeouts", "failures", "errors"),
        "ends": totals(last, "failures", "timeouts", "errors"),
        "kinds": dict(kinds),
        "first_error": next((row["first_error"]["message"] for row in rows if "first_error" in row), ""),
        "train": round(sum(e.timing.get("train_seconds", 0.0) for e in trial.evaluations), 1),
        "rollout": round(sum(_length(e.timing.get("rollout")) for e in trial.evaluations), 1),
        "videos": videos,
    }


def _measured(rows: Sequence[R], setting: SampleSetting | None, metric: Metric) -> list[R]:
    """The rows of a sample setting that have a score."""
    here = rows_at(rows, setting) if setting is not None else []
    return [row for row in here if score_of([row], metric).value is not None]


def _beaten(trial: TrialState) -> bool:
    return bool(trial.evaluations and trial.evaluations[-1].beaten)


def _length(span: list[float] | None) -> float:
    return span[1] - span[0] if span else 0.0


def _final(rows: Sequence[ResultRow], metric: Metric) -> Mapping[str, Any]:
    score: Score = score_of(rows, metric)
    seeds = [score_of([row], metric).value or 0.0 for row in rows]
    return {
        "rate": short(score.value),
        "interval": score.interval and [short(end) for end in score.interval],
        "episodes": score.episodes,
        "errors": score.errors_text,
        "tasks": [
            [name, short(one.value), one.interval and [short(end) for end in one.interval], one.episodes]
            for name, one in score.tasks.items()
        ],
        "seeds": seed_interval(seeds, bounds=(0.0, 1.0) if metric.is_rate else None),
    }
