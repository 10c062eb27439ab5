"""Names that users write -> tasks, whose modules are imported only when they are needed."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Protocol, cast

from raybc.config.data import NO_ENVIRONMENT
from raybc.env.environment import Environment
from raybc.env.remote import described, moved
from raybc.envs.base import EnvName, Task
from raybc.envs.border import calling
from raybc.envs.callables import from_callable
from raybc.envs.seen import seer
from raybc.envs.variant import Variant, limited, seen_by, split
from raybc.strict import did_you_mean
from raybc.types import UserError

#: Name of a task -> "module:attribute" of its `Task`.
TASKS = {
    "lift": "raybc.envs.robosuite:LIFT",
    "can": "raybc.envs.robosuite:CAN",
    "square": "raybc.envs.robosuite:SQUARE",
    "transport": "raybc.envs.robosuite:TRANSPORT",
    "tool_hang": "raybc.envs.robosuite:TOOL_HANG",
    "lift_abs": "raybc.envs.robosuite_absolute:LIFT_ABS",
    "can_abs": "raybc.envs.robosuite_absolute:CAN_ABS",
    "square_abs": "raybc.envs.robosuite_absolute:SQUARE_ABS",
    "transport_abs": "raybc.envs.robosuite_absolute:TRANSPORT_ABS",
    "tool_hang_abs": "raybc.envs.robosuite_absolute:TOOL_HANG_ABS",
    "lift_joints": "raybc.envs.robosuite_joints:LIFT_JOINTS",
    "can_joints": "raybc.envs.robosuite_joints:CAN_JOINTS",
    "square_joints": "raybc.envs.robosuite_joints:SQUARE_JOINTS",
    "lift_joints_pixels": "raybc.envs.robosuite_images:LIFT_JOINTS_PIXELS",
    "can_joints_pixels": "raybc.envs.robosuite_images:CAN_JOINTS_PIXELS",
    "square_joints_pixels": "raybc.envs.robosuite_images:SQUARE_JOINTS_PIXELS",
    "lift_pixels": "raybc.envs.robosuite_images:LIFT_PIXELS",
    "can_pixels": "raybc.envs.robosuite_images:CAN_PIXELS",
    "square_pixels": "raybc.envs.robosuite_images:SQUARE_PIXELS",
    "transport_pixels": "raybc.envs.robosuite_images:TRANSPORT_PIXELS",
    "tool_hang_pixels": "raybc.envs.robosuite_images:TOOL_HANG_PIXELS",
    "pointmass": "raybc.envs.pointmass:POINTMASS",
    "pointmass_pixels": "raybc.envs.pointmass:POINTMASS_PIXELS",
    "pusht": "raybc.envs.pusht:PUSHT",
    "pusht_pixels": "raybc.envs.pusht:PUSHT_PIXELS",
}
#: Modules (each a `Family`) of suites with too many tasks to list.
FAMILIES = (
    "raybc.envs.gym",
    "raybc.envs.robosuite_datasets",
    "raybc.envs.d4rl",
    "raybc.envs.ogbench",
    "raybc.envs.metaworld",
    "raybc.envs.libero",
    "raybc.envs.ocbench",
    "raybc.envs.ocbench_warp",
)
#: OBS of a name TASK-DATA-OBS -> suffix of the task that observes it (_abs: with poses as actions, _joints: with joint
#: deltas).
OBSERVATIONS = {
    "low_dim": "", "low_dim_abs": "_abs", "low_dim_joints": "_joints", "image": "_pixels",
    "image_joints": "_joints_pixels",
}  # fmt: skip
#: DATA of a name TASK-DATA-OBS -> what it means.
DATA = {
    "scripted": "demonstrations of the task's scripted expert",
    "human": "human demonstrations",
    "ph": "robomimic's proficient human",
    "mh": "robomimic's multi-human",
    "mg": "robomimic's machine generated",
}


#: (task, DATA) -> the step limit of robomimic's evaluations on these data, where it is not the task's own. People who
#: are no experts are slow: recorded episodes of Lift take up to 1143 steps.
LIMITS = {
    **{(task, "mh"): 500 for task in ("lift", "can", "square")},
    ("transport", "mh"): 1100,
    ("lift", "ph"): 400,
    ("lift", "mg"): 400,
    ("lift", "human"): 500,
}


class Family(Protocol):
    """A module that knows the names of one suite. It does not import the simulator to answer."""

    EXAMPLES: tuple[str, ...]
    """Names to suggest for a misspelled one."""

    def task(self, name: str) -> Task | None:
        """The task called `name`; None for names of other suites."""

    def parse(self, name: str) -> EnvName | None:
        """The task and the data that `name` stands for; None for names of other suites."""


def get_task(name: str) -> Task:
    """The task called `name`: a registered one ("lift"), one of a family ("gym:Pendulum-v1", "cube-single-v0"), or
    the user's own as "module:attribute", a `Task` or a function that makes a gymnasium environment. After @ is how it
    varies (`raybc.envs.variant`): "NAME@STEPS" is the same task with another step limit; published returns (for D4RL's
    score) are not those of another limit. "NAME@image", "NAME@84x84" and "NAME@cameras=front+wrist" observe images.

    Raises `UserError`, with similar names, for names that nobody knows.
    """
    base, variant = split(of_images(name))
    task = _named(base)
    if variant.seen:
        task = _seen(task, base, dataclasses.replace(variant, limit=0))
    if variant.limit not in (0, task.max_steps):
        name = variant.applied_to(base)
        task = dataclasses.replace(task, name=name, max_steps=variant.limit, reference_returns=None)
    return moved(task)


def _seen(task: Task, base: str, variant: Variant) -> Task:
    """The task, called `base`, with the images of a variant."""
    name = variant.applied_to(base)
    if task.environment is not None and not task.environment.is_here and task.see is None:
        return described(name, task.environment, task.make)
    return dataclasses.replace((task.see or seer(task))(variant.cameras, variant.size), name=name)


def of_images(name: str) -> str:
    """The usual name of a task of images: `lift_pixels` for `lift@image`, and the same for @84x84 and @cameras=..."""
    base, variant = split(name)
    if variant.seen and base + OBSERVATIONS["image"] in TASKS:
        base += OBSERVATIONS["image"]
    elif not variant.seen or base not in TASKS:
        return name
    return dataclasses.replace(variant, image=False).applied_to(base)


def _named(name: str) -> Task:
    if name in TASKS:
        module, _, attribute = TASKS[name].partition(":")
        return cast(Task, getattr(importlib.import_module(module), attribute))
    for family in _families():
        task = family.task(name)
        if task is not None:
            return task
    if ":" in name:
        return _own_task(name)
    raise UserError(f"unknown task {name!r}: {did_you_mean(name, [*TASKS, *_examples()])}")


def _families() -> list[Family]:
    return [cast(Family, importlib.import_module(name)) for name in FAMILIES]


def _examples() -> list[str]:
    return [example for family in _families() for example in family.EXAMPLES]


def _own_task(name: str) -> Task:
    module, _, attribute = name.partition(":")
    hint = "the module is the user's own, and must be importable"
    with calling(f"task {name!r}", f"importing {module}", hint):
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name not in (module, module.split(".")[0]):
                raise
            raise UserError(f"task {name!r}: there is no module {module!r} (is its folder in PYTHONPATH?)") from None
        except ValueError as error:
            if module:
                raise
            raise UserError(f"task {name!r}: expected module:attribute, got no module") from error
    with calling(f"task {name!r}", f"looking up {attribute}", hint):
        if not hasattr(imported, attribute):
            raise UserError(f"task {name!r}: module {module!r} has no {attribute!r}")
        found = getattr(imported, attribute)
    if isinstance(found, Task):
        return found
    if callable(found):
        environment = getattr(found, "environment", None)
        if environment is None:
            return from_callable(name, found)
        if not isinstance(environment, Environment):
            raise UserError(f"{name}: environment of the function: expected an Environment, got {environment!r}")
        if not environment.is_here:
            return described(name, environment, found)
        return dataclasses.replace(from_callable(name, found), environment=environment)
    raise UserError(f"task {name!r}: expected a Task or a function that makes a gymnasium environment, got {found!r}")


def parse_env_name(env_name: str) -> EnvName:
    """The task and the data of an environment name: TASK-DATA-OBS (`lift-scripted-low_dim`, `can-scripted-low_dim`),
    a name of D4RL or OGBench (`halfcheetah-medium-v2`, `cube-single-play-v0`), or a task alone (`gym:Pendulum-v1`).
    Followed by @STEPS, the task has this step limit; without, it is that of the data (`LIMITS`) or of the task.

    Raises `UserError`, with similar names, for names that nobody knows.
    """
    if env_name == NO_ENVIRONMENT:
        raise UserError(
            f"env_name {NO_ENVIRONMENT}: there is no simulator to run episodes in; name one, e.g. "
            "--env_name lift-human-low_dim"
        )
    base, variant = split(env_name)
    if base != env_name:
        found = parse_env_name(base)
        task_name, own = split(found.task)
        return EnvName(env_name, of_images(variant.over(own).applied_to(task_name)), found.data)
    parts = env_name.rsplit("-", 2)
    if len(parts) == 3 and parts[1] in DATA and parts[2] in OBSERVATIONS:
        task_name = parts[0] + OBSERVATIONS[parts[2]]
        if task_name in TASKS:
            limit = LIMITS.get((parts[0], parts[1]), 0)
            return EnvName(env_name, limited(task_name, limit), parts[1])
        if parts[2] == "image" and parts[0] not in TASKS:
            of_task = next((f for family in _families() if (f := family.parse(parts[0])) is not None), None)
            if of_task is not None and of_task.data in ("", parts[1]):
                return EnvName(env_name, seen_by(of_task.task, image=True), parts[1])
    for family in _families():
        of_family = family.parse(env_name)
        if of_family is not None:
            return of_family
    if env_name in TASKS or ":" in env_name:
        task = get_task(env_name)
        return EnvName(env_name, env_name, "scripted" if task.make_expert is not None else "")
    known = [
        f"{known_task}-{data}-{obs}"
        for known_task in TASKS
        for data in DATA
        for obs, suffix in OBSERVATIONS.items()
        if known_task + suffix in TASKS
    ]
    raise UserError(f"unknown environment {env_name!r}: {did_you_mean(env_name, [*known, *_examples()])}")
