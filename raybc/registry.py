"""Names that users write -> code, imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raybc.envs.base import EnvName
from raybc.strict import did_you_mean
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.envs.base import Task

#: Tasks with a name of their own.
TASKS = {
    "lift": "raybc.envs.robosuite:LIFT",
    "can": "raybc.envs.robosuite:CAN",
    "square": "raybc.envs.robosuite:SQUARE",
    "transport": "raybc.envs.robosuite:TRANSPORT",
    "tool_hang": "raybc.envs.robosuite:TOOL_HANG",
    "pointmass": "raybc.envs.pointmass:POINTMASS",
    "pointmass_pixels": "raybc.envs.pointmass:POINTMASS_PIXELS",
    "pusht": "raybc.envs.pusht:PUSHT",
    "pusht_pixels": "raybc.envs.pusht:PUSHT_PIXELS",
}
#: Suites whose tasks are too many to list. Each module has `task(name)`, the `Task` of a name or None, `parse(name)`,
#: an `EnvName` or None, and EXAMPLES of names. None of them imports its simulator for that.
FAMILIES = (
    "raybc.envs.gym",
    "raybc.envs.robosuite_datasets",
    "raybc.envs.d4rl",
    "raybc.envs.ogbench",
    "raybc.envs.metaworld",
)
#: What TASK-DATA-OBS may ask to be observed, and what the name of such a task ends with.
OBSERVATIONS = {"low_dim": "", "image": "_pixels"}
#: Data that TASK-DATA-OBS may ask for, and what it means.
DATA = {
    "scripted": "demonstrations of the task's scripted expert",
    "human": "human demonstrations",
    "ph": "robomimic's proficient human",
    "mh": "robomimic's multi-human",
    "mg": "robomimic's machine generated",
}


def load(kind: str, table: dict[str, str], name: str) -> Any:
    """The object behind a name, or `UserError` with the near matches."""
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}: {did_you_mean(name, table)}")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def get_task(name: str) -> Task:
    """The `Task` called `name`: a registered one ("lift"), one of a family ("gym:Pendulum-v1", "cube-single-v0"), or
    the user's own as "module:attribute", a `Task` or a function that makes a gymnasium environment."""
    if name in TASKS:
        return load("task", TASKS, name)
    for family in _families():
        task = family.task(name)
        if task is not None:
            return task
    if ":" in name:
        return _own_task(name)
    raise UserError(f"unknown task {name!r}: {did_you_mean(name, [*TASKS, *_examples()])}")


def _families() -> list[Any]:
    return [importlib.import_module(name) for name in FAMILIES]


def _examples() -> list[str]:
    return [example for family in _families() for example in family.EXAMPLES]


def _own_task(name: str) -> Task:
    from raybc.envs.base import Task

    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.split(".")[0]):
            raise
        raise UserError(f"task {name!r}: there is no module {module!r} (is its folder in PYTHONPATH?)") from None
    except (AttributeError, ValueError):
        raise UserError(f"task {name!r}: module {module!r} has no {attribute!r}") from None
    if isinstance(found, Task):
        return found
    if isinstance(found, Callable):  # type: ignore[arg-type]
        from raybc.envs.gym import from_callable

        return from_callable(name, found)
    raise UserError(f"task {name!r}: expected a Task or a function that makes a gymnasium environment, got {found!r}")


def parse_env_name(env_name: str) -> EnvName:
    """Take an environment name apart: TASK-DATA-OBS (`lift-scripted-low_dim`, `pointmass-scripted-image`), the names of
    D4RL and OGBench (`halfcheetah-medium-v2`, `cube-single-play-v0`), or a task alone (`gym:Pendulum-v1`)."""
    parts = env_name.rsplit("-", 2)
    if len(parts) == 3 and parts[1] in DATA and parts[2] in OBSERVATIONS:
        task = parts[0] + OBSERVATIONS[parts[2]]
        if task in TASKS:
            return EnvName(env_name, task, parts[1])
    for family in _families():
        found = family.parse(env_name)
        if found is not None:
            return found
    if env_name in TASKS or ":" in env_name:
        task = get_task(env_name)
        return EnvName(env_name, env_name, "scripted" if task.make_expert is not None else "")
    known = [
        f"{task}-{data}-{obs}"
        for task in TASKS
        for data in DATA
        for obs, suffix in OBSERVATIONS.items()
        if task + suffix in TASKS
    ]
    raise UserError(f"unknown environment {env_name!r}: {did_you_mean(env_name, [*known, *_examples()])}")
