"""How a `RolloutPool` runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from raybc.envs.base import RenderOptions


@dataclass
class PoolOptions:
    """How a pool runs. worker_cpus: CPUs that Ray reserves for a worker. deadline: seconds without any progress after
    which an episode is hung. render: workers that can film (one simulator each). slots: simulators of a worker (None:
    what the task says). recycle: a worker's process is replaced after so many episodes (0: never), for simulators that
    leak. shared: one inference actor for all workers, with `gpus` of a GPU. resources: what else a worker reserves.
    reserved: CPUs that others (trials) hold beside the pool."""

    worker_cpus: float = 0.5
    deadline: float = 120.0
    render: RenderOptions | None = None
    slots: int | None = None
    recycle: int = 0
    shared: bool = False
    gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    reserved: float = 0.0
