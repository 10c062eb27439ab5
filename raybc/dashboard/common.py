"""Sweeps on common starts: what their best recipes did on the final starts that all of them measured, and how sure the
difference is. The statistics and their words are those of `raybc compare` with one look at the end (`--rule fixed`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from raybc.compare.conditions import differing, of_tasks
from raybc.dashboard.view import RunView
from raybc.files import read_json
from raybc.metric import METRICS, Metric
from raybc.rows import EvaluationRow, rows_at
from raybc.sweep.space import eval_tasks
from raybc.types import UserError

#: (name, starts, scores of each training on these starts): hashable, so that a poll does not compute it again.
_Arm = tuple[str, tuple[str, ...], tuple[tuple[float, ...], ...]]


def on_common_starts(views: Sequence[RunView], names: Sequence[str]) -> dict[str, Any] | None:
    """What the page says about these sweeps on common starts; None where it says nothing (one sweep, or other metrics).

    {"note": why there is no comparison} or {"starts": n, "arms": [[name, score, interval, solved]], "lines": [text],
    "notes": [text]}. Only final starts count: search starts chose the recipes, so their rates are too high.
    """
    if len(views) < 2:
        return None
    arms: list[_Arm] = []
    conditions: dict[str, dict[str, str]] = {}
    missing: list[str] = []
    metrics: set[Metric] = set()
    for view, name in zip(views, names, strict=True):
        with view.lock:
            metric = _metric(view)
            arm = _arm(view, name, metric) if metric.from_episodes else None
            if arm is None:
                missing.append(name)
                continue
            try:
                conditions[name] = _conditions(view)
            except UserError as error:  # a damaged file, or tasks that this version does not know
                return {"note": f"Not comparable: {error}."}
            arms.append(arm)
            metrics.add(metric)
    if len(arms) < 2:
        wait = "The comparison comes when two of them have measured their best recipes on final starts"
        return {"note": f"{wait}; {' and '.join(missing)} {'has' if len(missing) == 1 else 'have'} not."}
    if len(metrics) > 1:
        return {"note": "Not comparable: the sweeps compare recipes by different measures."}
    problems = [text for texts in differing(conditions).values() for text in texts]
    if problems:
        return {"note": f"Not comparable: these differ: {'; '.join(problems)}."}
    notes = [f"{', '.join(missing)}: not measured on final starts yet."] if missing else []
    found = _compared(tuple(arms), metrics.pop())
    return found | {"notes": [*found.get("notes", ()), *notes]}


def _metric(view: RunView) -> Metric:
    """That of the sweep; D4RL's score is a return on another scale, which the ledger does not know."""
    metric = view.state.metric
    return METRICS["return"] if metric.name == "normalized_score" else metric


def _arm(view: RunView, name: str, metric: Metric) -> _Arm | None:
    """The best recipe of a sweep on final starts; None while it was not measured there."""
    number = view.best_trial()
    setting = None if number is None else view.setting(number)
    if number is None or setting is None:
        return None
    scores = [_scores(row, metric) for row in rows_at(view.state.trials[number].final_rows, setting)]
    if not scores:
        return None
    starts = tuple(start for start in scores[0] if all(start in one for one in scores))
    return name, starts, tuple(tuple(one[start] for start in starts) for one in scores)


def _scores(row: EvaluationRow, metric: Metric) -> dict[str, float]:
    """Start -> score. Episode i of a list belongs to task i modulo their number."""
    tasks = list(row.get("tasks") or ())
    names = [f"{tasks[i % len(tasks)]} " if tasks else "" for i in range(len(row["episode_list"]))]
    return {f"{name}{entry[0]}": metric.of_entry(entry) for name, entry in zip(names, row["episode_list"], strict=True)}


def _conditions(view: RunView) -> dict[str, str]:
    """What must be the same, as far as the run folder tells."""
    found: dict[str, str] = {}
    tasks: Sequence[str] = ()
    if view.config is not None:
        tasks = eval_tasks(view.config) or (view.config.train.env_name,)
        found |= of_tasks(tasks)
    facts = view.file("progress") or view.file("timing")
    if facts.get("max_steps"):
        found["max_steps"] = str(facts["max_steps"])
    versions = read_json(view.folder.versions) if view.folder.versions.is_file() else {}
    identity = versions.get("simulator") or {}
    return found | {f"physics: {k}": str(v) for k, v in identity.items() if len(tasks) < 2 or k != "env_name"}


@functools.lru_cache(maxsize=32)
def _compared(arms: tuple[_Arm, ...], metric: Metric) -> dict[str, Any]:
    # Here, because they import SciPy, which a page of one sweep does without.
    from raybc.compare.design import Design
    from raybc.compare.result import Scores, compare
    from raybc.compare.text import lines

    others = [set(starts) for _, starts, _ in arms[1:]]
    shared = [start for start in arms[0][1] if all(start in one for one in others)]
    if not shared:
        return {"note": "The sweeps have measured no final start in common."}
    scores = []
    for name, starts, values in arms:
        one = Scores(name, starts, np.array(values, np.float64))
        scores.append(Scores(name, tuple(shared), one.on(shared)))
    design = Design("fixed", len(shared), metric)
    try:
        comparison = compare(scores, design)
    except UserError as error:
        return {"note": f"Not comparable: {error}."}
    everything = max(len(starts) for _, starts, _ in arms)
    return {
        "starts": len(shared),
        "of": everything,
        "arms": [
            [
                arm.name,
                metric.show(arm.mean),
                metric.show_range(arm.interval),
                f"{arm.solved}/{arm.episodes}" if metric.is_rate else str(arm.episodes),
            ]
            for arm in comparison.arms
        ],
        "lines": [[line.strip(), line.startswith(" ")] for line in lines(comparison, design)],
    }
