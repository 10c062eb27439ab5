"""Comparisons over several tasks: names of starts, what tasks have in common, and the arms on each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raybc.compare.design import Design
from raybc.compare.result import Scores, TaskDifference, TaskResult, compare_pair, summary
from raybc.envs.variant import with_limit
from raybc.types import UserError


def name_of(task: str) -> str:
    """A task's name without its step limit, which is a condition of its own."""
    return with_limit(task)[0]


def start_name(start: str | int, task: str = "") -> str:
    """What a start is called: by its seed, and of several tasks also by its task."""
    return f"{name_of(task)} {start}" if task else str(start)


def start_of(row: Mapping[str, Any]) -> str:
    """The name of the start of a `raybc.rows.EpisodeRow`."""
    return start_name(row["seed"], row.get("task", ""))


def limits_text(limits: Mapping[str, int]) -> str:
    """`280`, or `a 200, b 280` where the step limits of tasks differ."""
    if len(set(limits.values())) == 1:
        return str(next(iter(limits.values())))
    return ", ".join(sorted(f"{name_of(task)} {limit}" for task, limit in limits.items()))


def physics_of(identity: Mapping[str, Any], tasks: int) -> dict[str, str]:
    """What `SimEnv.identity` says about the physics; of several tasks without their names."""
    return {name: str(value) for name, value in identity.items() if tasks < 2 or name != "env_name"}


def on_each_task(arms: Sequence[Scores], tasks: Mapping[str, str], design: Design) -> list[TaskResult]:
    """The arms on each task; [] where there is one task. tasks: start, as the scores call it -> its task."""
    names = dict.fromkeys(tasks.values())
    return [_on_task(name, arms, tasks, design) for name in names] if len(names) > 1 else []


def _on_task(task: str, arms: Sequence[Scores], tasks: Mapping[str, str], design: Design) -> TaskResult:
    mine = []
    for arm in arms:
        starts = tuple(start for start in arm.starts if tasks.get(start) == task)
        mine.append(replace(arm, starts=starts, values_KN=arm.on(starts)))
    differences = []
    for i, a in enumerate(mine):
        for b in mine[i + 1 :]:
            try:
                pair = compare_pair(a, b, design)
                differences.append(TaskDifference(a.name, b.name, pair.difference, pair.interval))
            except UserError:  # no valid episode of this task
                differences.append(TaskDifference(a.name, b.name, None, None))
    return TaskResult(task, [summary(arm, design.metric, 1 - design.level) for arm in mine], differences)


def unequal(arms: Sequence[Scores], tasks: Mapping[str, str]) -> list[str]:
    """A note where the tasks of an arm have different numbers of starts, so that they do not count equally."""
    notes = []
    for arm in arms:
        counts = Counter(tasks[start] for start in arm.starts if start in tasks)
        if counts and max(counts.values()) - min(counts.values()) > 1:
            few, many = min(counts, key=lambda t: counts[t]), max(counts, key=lambda t: counts[t])
            notes.append(
                f"the tasks of {arm.name} have {counts[few]} ({few}) to {counts[many]} starts ({many}); every start "
                "counts equally, so tasks do not"
            )
    return notes
