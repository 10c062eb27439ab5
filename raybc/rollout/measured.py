"""The tasks that a policy is measured on, each looked at once before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raybc import cli
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec, spec_of_task
from raybc.registry import get_task
from raybc.rollout.checks import check_camera, other_observation
from raybc.types import UserError
from raybc.waiting import waiting

if TYPE_CHECKING:  # it imports torch
    from raybc.rollout.policy import Change, MeasuredPolicy


@dataclass(frozen=True)
class MeasuredTask:
    """A task and what its simulator reports."""

    name: str
    """What `get_task` finds it by."""
    task: Task
    env_spec: EnvSpec


def measured_tasks(
    names: Sequence[str], policy: MeasuredPolicy, instruction: str = "", known: Sequence[MeasuredTask] = ()
) -> list[MeasuredTask]:
    """The tasks `names` with what their simulators report. Raises `UserError` where one does not fit the policy:
    observations and actions must have its sizes, it must know the instructions if it reads any, and the starts of the
    task that it was trained on must fit its statistics.

    instruction: what the policy reads in place of the tasks' instructions; "": those. known: the same tasks, where they
    were looked at for another policy.
    """
    policy.check_instruction(instruction)
    for name in names:
        environment = get_task(name).environment
        if environment is not None:
            environment.require()
    found = []
    seen = {one.name: one for one in known}
    for name in names:
        task = get_task(name)
        if name in seen:
            env_spec = seen[name].env_spec
        else:
            with waiting(f"Building a simulator of {name}"):
                env_spec = spec_of_task(task)
        policy.check_env(env_spec, name, instruction or env_spec.instruction or task.instruction)
        found.append(MeasuredTask(name, task, env_spec))
    return found


def check_tasks(
    names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], action_size: int, own: str
) -> dict[str, str]:
    """Look at the tasks on which policies will be measured, and print what users should know about them. Raises
    `UserError` where the environment of one is not built, or where one differs in what the policies see (`shapes`) or
    in the number of actions.

    own: the task of the data, for messages. Returns task -> its instruction.
    """
    tasks = {name: get_task(name) for name in names}
    for task in tasks.values():
        if task.environment is not None:
            task.environment.require()
    cli.print_notes([*dict.fromkeys(note for task in tasks.values() for note in task.notes)])
    instructions = {}
    for name, task in tasks.items():
        with waiting(f"Building a simulator of {name}"):
            env_spec = spec_of_task(task)
        other = other_observation(shapes, env_spec)
        if other is not None:
            key, expected, got = other
            raise UserError(
                f"task {name}: observation {key!r}: expected size {expected}, as in {own}, got {got}; one policy sees "
                "the same observations in all tasks"
            )
        if env_spec.action_size != action_size:
            raise UserError(
                f"task {name}: actions: expected {action_size} numbers, as in {own}, got {env_spec.action_size}"
            )
        instructions[name] = env_spec.instruction or task.instruction
    return instructions


def refuse_flags(measured: Sequence[MeasuredTask], *, camera: str, films: bool, inference: str) -> None:
    """Raise `UserError` for flags that one of the tasks cannot do."""
    for one in measured:
        check_camera(camera, one.env_spec, one.name)
        if films and one.task.no_images:
            raise UserError(f"--videos: {one.task.no_images}")
        if inference == "local" and one.task.environment is not None:
            raise UserError(
                f"--inference local: simulators of {one.name} are in environment {one.task.environment.name}, which "
                "has no PyTorch; use auto or shared"
            )


def remarks(measured: Sequence[MeasuredTask], policy: MeasuredPolicy) -> list[str]:
    """What users should know about the tasks; each remark once."""
    own = policy.remarks([one.env_spec for one in measured])
    return [*dict.fromkeys(note for one in measured for note in one.task.notes), *own]


def changes_of(measured: Sequence[MeasuredTask], policy: MeasuredPolicy) -> list[Change]:
    """What has changed of all tasks, each once. Of several, the name of the environment is no change."""
    changes = [change for one in measured for change in policy.changes(one.env_spec)]
    return [c for c in dict.fromkeys(changes) if len(measured) == 1 or c[1] != "env_name"]
