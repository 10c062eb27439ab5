"""Flags of the commands that measure policies: how their simulators run. They change no result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from raybc.types import UserError


@dataclass(frozen=True)
class SimulatorFlags:
    """A base of such a command's flags."""

    workers: str = "auto"
    """Simulator processes (auto: one per core)."""
    slots: int = 0
    """Simulators per process (0: what the task recommends)."""
    inference: Literal["auto", "local", "shared"] = "auto"
    """Where policies are computed: in each simulator process, or in one actor for all of them (auto: shared for large
    policies if Ray has a GPU)."""
    recycle: int = 0
    """Replace a simulator process after this many episodes (0: never)."""
    deadline: float = 120.0
    """Seconds without progress after which an episode counts as hung."""
    address: str = ""
    """Address of a running Ray cluster (default: start a local Ray)."""
    ray_dashboard: bool = False
    """Serve the dashboard of the local Ray on this machine while the command runs."""

    def check_simulators(self) -> None:
        """Raise `UserError` for an impossible flag."""
        if self.workers != "auto" and not (self.workers.isdigit() and int(self.workers) > 0):
            raise UserError(f"--workers: expected auto or a number of at least 1, got {self.workers!r}")
        if not 0 <= self.slots <= 1024:
            raise UserError(f"--slots: expected 0..1024, got {self.slots}")
        if self.recycle < 0:
            raise UserError(f"--recycle: expected at least 0 (0: never), got {self.recycle}")
        if not (math.isfinite(self.deadline) and self.deadline > 0):
            raise UserError(f"--deadline: expected seconds above 0, got {self.deadline}")

    @contextmanager
    def ray(self) -> Iterator[int]:
        """A Ray for the block; gives the number of simulator processes."""
        from raybc.cluster.session import allocate_workers, ray_session

        with ray_session(self.address, dashboard=self.ray_dashboard) as cpus:
            wanted = 0 if self.workers == "auto" else int(self.workers)
            yield allocate_workers(cpus, trials=0, trial_cpus=0, workers=wanted, worker_cpus=1.0)

    def pool_options(self, parameters: int) -> dict[str, Any]:
        """Options of a `RolloutPool` on the running Ray. parameters: those of the largest policy."""
        from raybc.cluster.capacity import total
        from raybc.inference.shared import LARGE

        shared = bool(total("GPU")) and parameters > LARGE if self.inference == "auto" else self.inference == "shared"
        return {
            "worker_cpus": 1.0,
            "deadline": self.deadline,
            "recycle": self.recycle,
            "shared": shared,
            "gpus": min(1.0, total("GPU")) if shared else 0.0,
        }
