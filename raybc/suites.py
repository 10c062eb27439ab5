"""Suites: names that stand for several tasks (`libero_object`, `MT10`, `cube-single-v0`)."""

from __future__ import annotations

import dataclasses
import importlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Protocol, cast

from raybc.envs.base import Task
from raybc.envs.border import calling
from raybc.envs.variant import Variant, limited, split
from raybc.metric import Metric, OverTasks, over_tasks
from raybc.metric_choice import resolve
from raybc.registry import get_task, of_images, parse_env_name
from raybc.strict import did_you_mean
from raybc.types import EpisodeSpec, Split, UserError


class _Suites(Protocol):
    """A module that knows suites. It does not import the simulator to answer."""

    SUITES: Collection[str]
    """Their names."""

    def tasks_of(self, suite: str) -> tuple[str, ...]:
        """The names of the tasks of one of `SUITES`, in the order of the benchmark."""


#: Modules (each a `_Suites`) that know suites.
MODULES = ("raybc.envs.libero", "raybc.envs.metaworld", "raybc.envs.ogbench")


def tasks_of(suite: str, where: str = "--suite") -> tuple[str, ...]:
    """The names of the tasks of a suite, in the order of the benchmark.

    A suite of one's own is `module:NAME`: a sequence of names of tasks, or a function without arguments that returns
    one. Raises `UserError`, with similar names, for names that nobody knows.
    """
    modules = [cast(_Suites, importlib.import_module(name)) for name in MODULES]
    for module in modules:
        if suite in module.SUITES:
            return module.tasks_of(suite)
    if ":" in suite:
        return _own_suite(suite, where)
    known = [name for module in modules for name in module.SUITES]
    raise UserError(f"{where}: unknown suite {suite!r}: {did_you_mean(suite, known)}")


def _own_suite(suite: str, where: str) -> tuple[str, ...]:
    name, _, attribute = suite.partition(":")
    hint = "the module is the user's own, and must be importable"
    with calling(f"suite {suite!r}", f"looking up {attribute} in {name}", hint):
        try:
            found = getattr(importlib.import_module(name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{where}: suite {suite!r}: {error}; expected module:NAME in PYTHONPATH") from None
        found = found() if callable(found) else found
    if isinstance(found, str) or not isinstance(found, Sequence) or not all(isinstance(one, str) for one in found):
        raise UserError(f"{where}: suite {suite!r}: expected a list of names of tasks, got {found!r:.80}")
    return tuple(found)


def choose_tasks(
    suite: str,
    tasks: Sequence[str],
    number: int,
    env_name: str,
    max_steps: int = 0,
    where: tuple[str, str] = ("--suite", "--tasks"),
) -> tuple[str, ...]:
    """The tasks to measure a policy on; () where neither a suite nor tasks are named.

    Args:
        suite: a suite, or "".
        tasks: names of tasks or environments, instead of a suite.
        number: how many of them, the first ones (0: all).
        env_name: what the policy was trained on: tasks that do not say what they observe observe the same images.
            "": not known.
        max_steps: step limit of all of them (0: their own).
        where: the flags or keys of `suite` and `tasks`, for messages.

    Raises `UserError` for unknown names, and for a task that is named twice.
    """
    of_suite, of_tasks = where
    if suite and tasks:
        raise UserError(f"{of_suite}: expected either a suite or {of_tasks}, got both")
    named = tasks_of(suite, of_suite) if suite else tuple(tasks)
    if number < 0 or number > len(named):
        what = f"the tasks of {suite}" if suite else of_tasks
        expected = f"1..{len(named)} ({what})" if named else f"{of_suite} or {of_tasks} as well"
        raise UserError(f"--num_tasks: expected {expected}, got {number}")
    named = named[: number or None]
    if not named:
        if suite:
            raise UserError(f"{of_suite}: suite {suite!r} has no tasks")
        return ()
    seen = dataclasses.replace(split(parse_env_name(env_name).task)[1], limit=0) if env_name else Variant()
    found = [_observing(parse_env_name(name).task, seen) for name in named]
    known = [get_task(name) for name in found]
    twice = [name for name, count in Counter(task.name for task in known).items() if count > 1]
    if twice:
        raise UserError(f"{of_suite if suite else of_tasks}: expected different tasks, got {twice[0]} twice")
    if max_steps:
        found = [
            name if task.max_steps == max_steps else limited(name, max_steps)
            for name, task in zip(found, known, strict=True)
        ]
    return tuple(found)


def tasks_of_run(suite: str, tasks: str, env_name: str) -> tuple[str, ...]:
    """The tasks on which a training measures checkpoints, from its options `eval_suite`, `eval_tasks` and `env_name`.
    Raises `UserError` as `choose_tasks` does."""
    named = [name for entry in tasks.split(",") if (name := entry.strip())]
    found = choose_tasks(suite, named, 0, env_name, where=("--eval_suite", "--eval_tasks"))
    return found or (parse_env_name(env_name).task,)


def _observing(name: str, seen: Variant) -> str:
    """The task `name` with the images `seen`, unless it says itself what it observes."""
    base, own = split(name)
    return name if own.seen or not seen.seen else of_images(seen.over(own).applied_to(base))


def resolve_over(
    requested: str | None, tasks: Sequence[Task], where: str = "metric", over: OverTasks = "mean"
) -> Metric:
    """The metric of a policy that is measured on several tasks. Raises `UserError` where they do not share one."""
    metrics = [resolve(requested, task, where) for task in tasks]
    first = metrics[0]
    for metric, task in zip(metrics, tasks, strict=True):
        if metric.name != first.name:
            raise UserError(
                f"{where}: expected one measure for all tasks; of {tasks[0].name} it is {first.label}, of {task.name} "
                f"{metric.label}: name one that all of them tell"
            )
        if metric.name == "normalized_score" and metric.reference != first.reference:
            raise UserError(f"{where}: {task.name} has other reference returns than {tasks[0].name}; choose return")
    ends = [metric.bounds for metric in metrics]
    known = [bounds for bounds in ends if bounds is not None]
    whole = (min(low for low, _ in known), max(high for _, high in known)) if len(known) == len(ends) else None
    success = all(metric.has_success for metric in metrics)
    return over_tasks(dataclasses.replace(first, bounds=whole, has_success=success), over)


def specs_in_turns(tasks: Sequence[str], starts: Split, episodes: int) -> list[EpisodeSpec]:
    """The first `episodes` starts of each task, taking turns, so that every task has as many in each part."""
    return [EpisodeSpec(task, starts, i) for i in range(episodes) for task in tasks]
