"""`PoolSimulators`: episodes of an online training in a `RolloutPool`, one by one."""

from __future__ import annotations

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray

from raybc.cluster.answers import answer_of
from raybc.online.part import Name
from raybc.rollout.engine import Rollout
from raybc.rollout.pool import RolloutPool
from raybc.rows import EpisodeRow
from raybc.types import EpisodeSpec


class PoolSimulators:
    """Each episode is an evaluation of its own, so none is waited for together with others."""

    def __init__(self, pool: RolloutPool, key: str) -> None:
        """key: what names of evaluations begin with."""
        self._pool, self._key = pool, key
        self._names: dict[ray.ObjectRef, Name] = {}

    def submit(self, name: Name, job: Rollout, spec: EpisodeSpec) -> None:
        self._names[self._pool.submit(f"{self._key}/online {name}", [job], [spec])] = name

    def ended(self, seconds: float) -> list[tuple[Name, EpisodeRow]]:
        refs = list(self._names)
        if not refs:
            return []
        if seconds:
            ray.wait(refs, timeout=seconds)
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [(self._names.pop(ref), answer_of(ref)[0][0]) for ref in ready]
