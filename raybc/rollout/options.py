"""How a `RolloutPool` runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from raybc.envs.base import RenderOptions, Task


@dataclass
class PoolOptions:
    """How a pool runs its simulator processes (workers)."""

    worker_cpus: float = 0.5
    """CPUs that Ray reserves for each worker."""
    deadline: float = 120.0
    """Seconds without progress after which an episode counts as hung."""
    render: RenderOptions | None = None
    """Start workers that can film (one simulator each)."""
    slots: int | None = None
    """Simulators per worker (None: what the task recommends)."""
    recycle: int = 0
    """Replace a worker's process after this many episodes, for simulators that leak memory (0: never)."""
    shared: bool = False
    """Compute the policy in one inference actor for all workers instead of in each of them."""
    gpus: float = 0.0
    """GPUs of that actor."""
    resources: dict[str, float] = field(default_factory=dict)
    """Custom Ray resources that each worker reserves as well."""
    reserved: float = 0.0
    """CPUs that others (trials) hold beside the pool."""
    worker_gpus: float = 0.0
    """GPUs that each worker reserves whose task is simulated on a GPU (`Task.gpu_slots`); 0: there is none."""

    def slots_of(self, task: Task) -> int:
        """Simulators of a worker of this task, worlds of a batch among them."""
        if self.render is not None:
            return 1
        return self.slots or (task.gpu_slots if self.worker_gpus else 0) or task.slots
