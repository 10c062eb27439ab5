"""Simulators on GPUs: which share of one their processes reserve, and what is left of it for training and inference. No
Ray in here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raybc.envs.base import Task
from raybc.registry import get_task
from raybc.types import UserError

#: GPUs that a worker reserves: more than a half, so that each GPU has one of them, and what one with rendering reserves
#: beside it.
WORKER_GPUS, RENDERING_GPUS = 0.51, 0.09
#: What is left of a GPU for training and inference.
LEFT = 0.4


def on_gpus_of(
    tasks: Sequence[Task], workers: int, options: dict[str, Any], gpus: float, gpus_here: float
) -> tuple[int, dict[str, Any]]:
    """The number of workers, and their `PoolOptions`, where tasks are simulated on the GPUs of a Ray.

    gpus: GPUs of the Ray. gpus_here: of this machine, which has looked what scores depend on (`SimEnv.identity`); the
    workers must simulate on the same. Raises `UserError` where they would not.
    """
    concerned = [task for task in tasks if task.gpu_slots]
    if not concerned or not gpus:
        return workers, options
    if not gpus_here:
        raise UserError(
            f"task {concerned[0].name}: expected a GPU on this machine, since other machines of this Ray have "
            f"{gpus:g} and would simulate on them; scores of a GPU and of a CPU must not be mixed: start the command "
            "on a machine with a GPU"
        )
    options = {**options, "worker_gpus": RENDERING_GPUS if options.get("render") else WORKER_GPUS}
    if options.get("gpus"):
        options["gpus"] = min(options["gpus"], LEFT)
    return (min(workers, max(1, int(gpus))) if len(concerned) == len(tasks) else workers), options


def gpu_left(tasks: Sequence[str]) -> float:
    """How much of each GPU the simulators of these tasks leave for training."""
    return LEFT if any(get_task(name).gpu_slots for name in tasks) else 1.0
