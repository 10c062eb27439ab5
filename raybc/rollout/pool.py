"""`RolloutPool`: simulator processes as Ray actors; the only file that knows them.

A dispatcher actor owns the workers and one queue for all who ask (trials of a sweep, the final measurement,
demonstrations), so workers stay warm and are never idle while there is work. One remote call carries whole episodes.
A worker that raises, dies or passes its deadline is replaced by a fresh process and its specs are run again; a spec
that fails alone more than `RETRIES` times is reported as `error`. Every spec gets exactly one row.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from raybc.envs.base import RenderOptions
from raybc.rollout.worker import Rollout, SimWorker, Work
from raybc.types import EpisodeResult, EpisodeSpec

RETRIES = 2
#: Work in one remote call (a call costs about 1 ms).
SECONDS_PER_CALL = 0.5
#: Time that a new simulator process may take to import and build its simulator.
START_DEADLINE = 180.0


@dataclass
class _Item:
    work: Work
    spec: EpisodeSpec
    done: asyncio.Future[dict[str, Any]]
    failures: int = 0
    alone: bool = False


@dataclass
class _Stats:
    episodes: int = 0
    steps: int = 0
    retries: int = 0
    errors: int = 0
    busy_seconds: float = 0.0
    restarts: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)


class _Dispatcher:
    """An asyncio actor: a queue of episodes and a loop for each worker."""

    def __init__(self, task: str, workers: int, worker_cpus: float, deadline: float, render: RenderOptions | None):
        self._task, self._cpus, self._deadline, self._render = task, worker_cpus, deadline, render
        self._workers = workers
        self._queue: deque[_Item] = deque()
        self._wake = asyncio.Condition()
        self._stats = _Stats()
        self._mean_seconds = 1.0
        self._jobs: dict[str, asyncio.Task[list[dict[str, Any]]]] = {}
        self._pids: dict[int, int] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._failed_starts = 0

    async def start(self) -> None:
        """Start the workers; returns at once, they warm up by themselves."""
        self._ensure_loops()

    def _ensure_loops(self) -> None:
        # Also called by `evaluate`: a dispatcher that Ray restarted after a crash has lost its loops.
        if not self._loops:
            self._loops = [asyncio.ensure_future(self._work(i)) for i in range(self._workers)]

    async def evaluate(self, key: str, works: Sequence[Work], specs: Sequence[EpisodeSpec]) -> list[dict[str, Any]]:
        """Every spec of every work once; rows in the order of works, then specs.

        A second call with the same key while the first is under way waits for the same episodes: a trial that was
        killed and started again does not double the work.
        """
        self._ensure_loops()
        if key not in self._jobs:
            self._jobs[key] = asyncio.ensure_future(self._run(works, specs))
        try:
            return await asyncio.shield(self._jobs[key])
        finally:
            job = self._jobs.get(key)
            if job is not None and job.done():
                del self._jobs[key]

    async def _run(self, works: Sequence[Work], specs: Sequence[EpisodeSpec]) -> list[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        items = [_Item(work, spec, loop.create_future()) for work in works for spec in specs]
        async with self._wake:
            self._queue.extend(items)
            self._wake.notify_all()
        return [await item.done for item in items]

    async def stats(self) -> dict[str, Any]:
        return {
            "episodes": self._stats.episodes,
            "steps": self._stats.steps,
            "retries": self._stats.retries,
            "errors": self._stats.errors,
            "restarts": self._stats.restarts,
            "busy_seconds": self._stats.busy_seconds,
            "workers": self._workers,
            "queued": len(self._queue),
            "pids": sorted(self._pids.values()),
            "spans": self._stats.spans[-100_000:],
        }

    async def _next_batch(self) -> list[_Item]:
        async with self._wake:
            while not self._queue:
                await self._wake.wait()
            first = self._queue.popleft()
            batch = [first]
            # Small enough that the last calls of a job end together, large enough to hide the cost of a call.
            share = len(self._queue) // (2 * self._workers)
            limit = 1 if first.alone else max(1, min(int(SECONDS_PER_CALL / self._mean_seconds), share))
            while len(batch) < limit and self._queue:
                following = self._queue[0]
                if following.work != first.work or following.alone:
                    break
                batch.append(self._queue.popleft())
            return batch

    async def _work(self, index: int) -> None:
        worker = None
        while True:
            try:
                worker = worker or await self._new_worker(index)
            except (RayError, TimeoutError) as error:
                await self._fail_start(error)
                continue
            self._failed_starts = 0
            batch = await self._next_batch()
            started = time.time()
            try:
                rows = await asyncio.wait_for(
                    worker.run.remote(batch[0].work, [i.spec for i in batch]), self._deadline * len(batch)
                )
                problem = rows[-1].get("exception")
            except TimeoutError:
                rows, problem = [], f"no answer within {self._deadline:g} s (hung)"
            except RayActorError as error:
                rows, problem = [], f"the simulator process died ({type(error).__name__})"
            self._count_busy(started, time.time())
            if problem is None:
                self._finish(batch, rows)
                continue
            self._finish(batch[: len(rows) - 1], rows[:-1]) if rows else None
            ray.kill(worker)
            worker = None
            self._stats.restarts += 1
            await self._put_back(batch[max(0, len(rows) - 1) :], problem, certain=bool(rows))

    async def _new_worker(self, index: int) -> ActorHandle:
        remote = ray.remote(SimWorker).options(num_cpus=self._cpus, max_restarts=0, scheduling_strategy="SPREAD")
        worker = remote.remote(self._task, self._render)
        self._pids[index] = await asyncio.wait_for(worker.__ray_call__.remote(_warm_up), START_DEADLINE)
        return worker

    async def _fail_start(self, error: BaseException) -> None:
        """A simulator could not be started. Where that repeats, all who wait are told, instead of waiting for ever."""
        self._failed_starts += 1
        self._stats.restarts += 1
        reason = str(error.cause) if isinstance(error, RayTaskError) else str(error) or type(error).__name__
        if self._failed_starts > RETRIES:
            async with self._wake:
                while not self._queue:
                    await self._wake.wait()
                items, self._queue = list(self._queue), deque()
            for item in items:
                self._give_up(item, f"no simulator process could be started: {reason}")
        await asyncio.sleep(0.5)

    def _give_up(self, item: _Item, problem: str) -> None:
        self._stats.errors += 1
        retries = max(0, item.failures - 1)
        row = EpisodeResult(item.spec.index, item.spec.seed, "error", 0.0, 0, 0.0, retries, problem)
        self._settle(item, row.to_row())

    async def _put_back(self, items: list[_Item], problem: str, certain: bool) -> None:
        """Run again: the first item is to blame when it is certain or when it ran alone."""
        async with self._wake:
            for n, item in enumerate(reversed(items)):
                is_first = n == len(items) - 1
                if is_first and (certain or len(items) == 1):
                    item.failures += 1
                    self._stats.retries += 1
                item.alone = item.alone or not certain or is_first
                if item.failures > RETRIES:
                    self._give_up(item, problem)
                else:
                    self._queue.appendleft(item)
            self._wake.notify_all()

    def _finish(self, batch: Sequence[_Item], rows: Sequence[dict[str, Any]]) -> None:
        for item, row in zip(batch, rows, strict=True):
            self._stats.episodes += 1
            self._stats.steps += row["steps"]
            self._mean_seconds += 0.1 * (row["seconds"] - self._mean_seconds)
            self._settle(item, row | {"retries": item.failures})

    @staticmethod
    def _settle(item: _Item, row: dict[str, Any]) -> None:
        if not item.done.done():
            item.done.set_result(row)

    def _count_busy(self, start: float, end: float) -> None:
        self._stats.busy_seconds += end - start
        self._stats.spans.append((start, end))


def _warm_up(worker: SimWorker) -> int:
    worker.warm_up()
    return os.getpid()


class RolloutPool:
    """A handle on the simulators of one task; it can be sent to other actors."""

    def __init__(self, dispatcher: ActorHandle, workers: int) -> None:
        self._dispatcher, self.workers = dispatcher, workers

    @classmethod
    def start(
        cls, task: str, workers: int, *, worker_cpus: float = 0.5, deadline: float = 120.0,
        render: RenderOptions | None = None,
    ) -> RolloutPool:  # fmt: skip
        """Start `workers` simulator processes of a task. `deadline`: seconds after which an episode is hung."""
        remote = ray.remote(_Dispatcher).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        dispatcher = remote.remote(task, workers, worker_cpus, deadline, render)
        dispatcher.start.options(max_task_retries=0).remote()  # not tried again when the pool is closed at once
        return cls(dispatcher, workers)

    def submit(self, key: str, works: Sequence[Work], specs: Sequence[EpisodeSpec]) -> ray.ObjectRef:
        """Start an evaluation; `ray.get` gives the rows of `evaluate`. `key` names it (see `_Dispatcher.evaluate`)."""
        return self._dispatcher.evaluate.remote(key, list(works), list(specs))

    def evaluate(self, key: str, works: Sequence[Work], specs: Sequence[EpisodeSpec]) -> list[list[dict[str, Any]]]:
        """Rows of each work, in the order of specs."""
        return self.split(ray.get(self.submit(key, works, specs)), len(works))

    @staticmethod
    def split(rows: list[dict[str, Any]], works: int) -> list[list[dict[str, Any]]]:
        n = len(rows) // works
        return [rows[i * n : (i + 1) * n] for i in range(works)]

    def stats(self) -> dict[str, Any]:
        """Counters since the start: episodes, steps, retries, errors, restarts, busy_seconds, queued, pids, spans."""
        return ray.get(self._dispatcher.stats.remote())

    def close(self) -> None:
        """End the dispatcher; its workers end with it. Nothing happens when it was closed before."""
        ray.kill(self._dispatcher)

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


__all__ = ["Rollout", "RolloutPool"]
