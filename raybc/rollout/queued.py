"""What a dispatcher knows of an episode in its queue, and what it counts. No Ray in here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

from raybc.rollout.engine import RolloutJob
from raybc.rows import EpisodeRow, PoolStats
from raybc.types import EpisodeSpec

#: Busy intervals that statistics contain.
MAX_SPANS = 100_000

#: Number of the job, number of the spec, row.
FinishedEpisode = tuple[int, int, EpisodeRow]


@dataclass(eq=False)  # found in the queue by identity
class QueuedEpisode:
    job: RolloutJob
    spec: EpisodeSpec
    suite: str
    done: asyncio.Future[EpisodeRow | None]
    """Its row, or None if a stop rule made it unnecessary."""
    slots: int = 1
    """Simulators per process that its task recommends."""
    failures: int = 0
    alone: bool = False
    """Must be the only episode of its process, because it may be the one that kills it."""


@dataclass
class Stats:
    """Counters of a dispatcher; see `raybc.rows.PoolStats`."""

    episodes: int = 0
    steps: int = 0
    retries: int = 0
    errors: int = 0
    busy_seconds: float = 0.0
    restarts: int = 0
    recycled: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)

    def row(self, workers: int, queued: int, pids: list[int]) -> PoolStats:
        more = {"workers": workers, "queued": queued, "pids": pids, "spans": self.spans[-MAX_SPANS:]}
        return cast(PoolStats, vars(self) | more)


def log_episode(log: list[FinishedEpisode], job: int, spec: int, done: asyncio.Future[EpisodeRow | None]) -> None:
    row = None if done.cancelled() else done.result()
    if row is not None:
        log.append((job, spec, row))


def settle(item: QueuedEpisode, row: EpisodeRow) -> None:
    if not item.done.done():
        item.done.set_result(row)
