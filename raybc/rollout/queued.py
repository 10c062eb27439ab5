"""What a dispatcher knows of an episode in its queue, and what it counts. No Ray in here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import cast

from raybc.rollout.engine import RolloutJob
from raybc.rows import EpisodeRow, PoolStats
from raybc.types import EpisodeSpec

#: Busy intervals that statistics contain.
MAX_SPANS = 100_000

#: Episodes of a failed process that are not run one by one to find the one at fault.
MANY = 64

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
    key: str = ""
    """The evaluation that it belongs to."""
    block: int = 0
    """Blocks are run one after another; within one, the order of tasks is free (see `choose`)."""
    named: bool = False
    """Its row names the task, since the evaluation has several."""
    failures: int = 0
    most: int = 0
    """Most episodes of its process while it runs, because it may be the one that kills it; 0: any number."""


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


def choose(queue: Iterable[QueuedEpisode], suite: str, task: str, others: Collection[str]) -> QueuedEpisode | None:
    """The next episode for a process with simulators of `suite`; None if there is none.

    It is the first one in the queue, or of the same evaluation and block: one of `task`, of which the process has
    simulators, or else one of a task that no other process works on. So each process builds few simulators.

    others: tasks that other processes work on.
    """
    first: QueuedEpisode | None = None
    fresh: QueuedEpisode | None = None
    for item in queue:
        if item.suite != suite:
            continue
        if first is None:
            first = item
            if not item.named or item.most:
                return item
        elif (item.key, item.block) != (first.key, first.block):
            break
        if item.spec.task == task and not item.most:
            return item
        if fresh is None and item.spec.task not in others:
            fresh = item
    return fresh or first


def suspected(item: QueuedEpisode, among: int) -> None:
    """The process of `among` episodes failed, perhaps because of this one: it is run alone, or, where they are many, at
    first in a smaller group. So one failure of a batch does not cost an episode's time for each of its worlds."""
    most = math.isqrt(among) if among > MANY else 1
    item.most = min(item.most or most, most)


def settle(item: QueuedEpisode, row: EpisodeRow) -> None:
    if item.named:
        row["task"] = item.spec.task
    if not item.done.done():
        item.done.set_result(row)
