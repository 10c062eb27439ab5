"""The tasks that a policy is measured on, each looked at once before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec, spec_of_task
from raybc.envs.variant import with_limit
from raybc.registry import get_task, parse_env_name
from raybc.rollout.checks import (
    check_camera,
    check_reads,
    check_statistics,
    check_task,
    far_observations,
    other_observation,
    version_changes,
)
from raybc.types import UserError

#: Looking at this many tasks takes long enough to be announced.
MANY = 4


@dataclass(frozen=True)
class MeasuredTask:
    """A task and what its simulator reports."""

    name: str
    """What `get_task` finds it by."""
    task: Task
    env_spec: EnvSpec


def measured_tasks(
    names: Sequence[str], bundle: PolicyBundle, path: Path, instruction: str = "", known: Sequence[MeasuredTask] = ()
) -> list[MeasuredTask]:
    """The tasks `names` with what their simulators report. Raises `UserError` where one does not fit the policy:
    observations and actions must have its sizes, it must know the instructions if it reads any, and the starts of the
    task that it was trained on must fit its statistics.

    instruction: what the policy reads in place of the tasks' instructions; "": those. known: the same tasks, where they
    were looked at for another policy.
    """
    check_reads(bundle, path, instruction)
    for name in names:
        environment = get_task(name).environment
        if environment is not None:
            environment.require()
    if len(names) >= MANY and not known:
        cli.console.print(f"looking at the simulators of {len(names)} tasks")
    found = []
    seen = {one.name: one for one in known}
    trained_on = with_limit(parse_env_name(bundle.config.env_name).task)[0]
    for name in names:
        task = get_task(name)
        env_spec = seen[name].env_spec if name in seen else spec_of_task(task)
        text, own = instruction or env_spec.instruction or task.instruction, with_limit(name)[0] == trained_on
        check_task(bundle, env_spec, path, bundle.config.env_name if own else name, text)
        if own:  # other tasks may look different from all that the policy was trained on
            check_statistics(bundle, env_spec, path)
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
    if len(tasks) >= MANY:
        cli.console.print(f"looking at the simulators of {len(tasks)} tasks")
    cli.print_notes([*dict.fromkeys(note for task in tasks.values() for note in task.notes)])
    instructions = {}
    for name, task in tasks.items():
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


def remarks(measured: Sequence[MeasuredTask], bundle: PolicyBundle) -> list[str]:
    """What users should know about the tasks; each remark once."""
    own = far_observations(bundle, measured[0].env_spec) if len(measured) == 1 else []
    return [*dict.fromkeys(note for one in measured for note in one.task.notes), *own]


def changes_of(measured: Sequence[MeasuredTask], bundle: PolicyBundle) -> list[tuple[str, str, str, str]]:
    """`version_changes` of all tasks, each once. Of several, the name of the environment is no change."""
    changes = [change for one in measured for change in version_changes(bundle, one.env_spec)]
    return [c for c in dict.fromkeys(changes) if len(measured) == 1 or c[1] != "env_name"]
