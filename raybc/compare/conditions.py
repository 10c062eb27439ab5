"""Under which conditions arms were measured, and where these differ. Neither Ray nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from raybc.envs.variant import split


def of_task(task: str) -> dict[str, str]:
    """task and render from a task's name; the step limit is known when the task is."""
    base, variant = split(task)
    return {"task": base, "render": replace(variant, limit=0).applied_to("") if variant.seen else "none"}


def of_tasks(tasks: Sequence[str]) -> dict[str, str]:
    """task and render of several tasks, whose order says nothing."""
    each = [of_task(task) for task in tasks]
    return {key: ", ".join(sorted({one[key] for one in each})) for key in ("task", "render")}


def differing(conditions: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Field -> what differs, as `NAME (ARM VALUE, ARM VALUE)`. conditions: arm -> name -> value, as far as it is known;
    a name is a field, or `FIELD: PART`."""
    problems: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for known in conditions.values() for name in known):
        known = {arm: values[name] for arm, values in conditions.items() if name in values}
        if len(set(known.values())) > 1:
            shown = ", ".join(f"{arm} {value}" for arm, value in known.items())
            problems.setdefault(name.partition(":")[0], []).append(f"{name} ({shown})")
    return problems
