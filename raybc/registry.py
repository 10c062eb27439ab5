"""Names that users write -> code, imported only when asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raybc.strict import near
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.envs.base import Task

TASKS = {
    "lift": "raybc.envs.robosuite:LIFT",
    "pointmass": "raybc.envs.pointmass:POINTMASS",
}
OBSERVATIONS = ("low_dim",)
#: Data that a name may ask for, and what it means.
DATA = {"scripted": "demonstrations of the task's scripted expert"}


@dataclass(frozen=True)
class EnvName:
    """An environment name taken apart: TASK-DATA-OBS."""

    task: str
    data: str
    obs: str

    def __str__(self) -> str:
        return f"{self.task}-{self.data}-{self.obs}"


def load(kind: str, table: dict[str, str], name: str) -> Any:
    """The object behind a name, or `UserError` with the near matches."""
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}: {near(name, table)}")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def get_task(name: str) -> Task:
    """The `Task` called `name`: a registered one ("lift"), or the user's own as "module:ATTRIBUTE"."""
    if ":" in name:
        return load("task", {name: name}, name)
    return load("task", TASKS, name)


def parse_env_name(env_name: str) -> EnvName:
    """Take `lift-scripted-low_dim` apart; every part must be known."""
    known = [f"{task}-{data}-{obs}" for task in TASKS for data in DATA for obs in OBSERVATIONS]
    parts = env_name.split("-")
    if len(parts) == 3 and parts[0] in TASKS and parts[1] in DATA and parts[2] in OBSERVATIONS:
        return EnvName(*parts)
    raise UserError(f"unknown environment {env_name!r} (expected TASK-DATA-OBS): {near(env_name, known)}")
