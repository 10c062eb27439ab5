"""The dispatcher of a `RolloutPool`: an actor that owns the simulator processes and hands out episodes.

It has one queue for all who ask (trials of a sweep, the final measurement, demonstrations), so workers stay warm across
checkpoints, trials and tasks and are never idle while there is work. A call hands a worker its next episodes and brings
back what has ended; its simulators are filled again from what it has been given, so nobody waits for the slowest.

Faults. A worker that raises, dies or stands still past the deadline is replaced by a fresh process. The episode that
raised or stood still is to blame and is run again; when a process just died, its episodes are run again one by one. A
spec that fails more than `RETRIES` times is reported as `error`. Every spec gets exactly one row.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
from ray.exceptions import RayActorError, RayError, RayTaskError

from raybc.cluster.metrics import RolloutMetrics
from raybc.inference.shared import SharedLoader, start_server
from raybc.registry import get_task
from raybc.rollout.engine import RolloutJob
from raybc.rollout.options import PoolOptions
from raybc.rollout.results import value_of
from raybc.rollout.stop import BLOCK, StopRule
from raybc.rollout.worker import Loader, Report
from raybc.rollout.worker_slots import WATCH, WorkerSlot, rebalance
from raybc.types import EpisodeResult, EpisodeSpec

RETRIES = 2
#: Tasks with at most so many slots step slowly: a chunk costs little beside them, and a long episode left over a lot.
HEAVY = 8
#: Work that a worker is given beyond what is in its slots (a call costs about 1 ms).
SECONDS_AHEAD = 0.5
#: A worker reports at least so often, so that one that stands still is noticed.
PATIENCE = 0.25


@dataclass(eq=False)  # found in the queue by identity
class QueuedEpisode:
    work: RolloutJob
    spec: EpisodeSpec
    suite: str
    done: asyncio.Future[dict[str, Any] | None]
    slots: int = 1
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
    recycled: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)


class Dispatcher:
    """An asyncio actor: a queue of episodes and a loop for each worker."""

    def __init__(self, task: str, workers: int, options: PoolOptions) -> None:
        self._task, self._options = task, options
        self._queue: deque[QueuedEpisode] = deque()
        self._wake = asyncio.Condition()
        self._stats = _Stats()
        self._mean_seconds = 1.0
        self._jobs: dict[str, asyncio.Task[list[list[dict[str, Any]]]]] = {}
        self._logs: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
        self._slots = [WorkerSlot() for _ in range(workers)]
        self._loops: list[asyncio.Task[None]] = []
        self._failed_starts = 0
        self._numbers = self._started = 0
        self._loader: Loader | None = None
        self._metrics = RolloutMetrics()

    async def start(self) -> None:
        """Start the workers; returns at once, they warm up by themselves."""
        self._ensure_loops()

    def _ensure_loops(self) -> None:
        # Also called by `evaluate`: a dispatcher that Ray restarted after a crash has lost its loops.
        if not self._loops:
            if self._options.shared:
                self._loader = SharedLoader(start_server(self._options.gpus))
            self._loops = [asyncio.ensure_future(loop) for loop in (*map(self._work, self._slots), self._watch())]

    # --- those who ask ----------------------------------------------------------------------------------------------

    async def evaluate(
        self,
        key: str,
        works: Sequence[RolloutJob],
        specs: Sequence[EpisodeSpec],
        rule: StopRule | None = None,
        known: Mapping[tuple[int, int], dict[str, Any]] | None = None,
    ) -> list[list[dict[str, Any]]]:
        """Every spec of every work once (until `rule` ends it); rows of each work in the order of specs.

        known: rows, by number of work and spec, that were measured before and are not measured again.

        A second call with the same key while the first is under way waits for the same episodes: a trial that was
        killed and started again does not double the work.
        """
        self._ensure_loops()
        if key not in self._jobs:
            self._logs[key] = []
            self._jobs[key] = asyncio.ensure_future(self._run(works, specs, rule, known or {}, self._logs[key]))
        try:
            return await asyncio.shield(self._jobs[key])
        finally:
            job = self._jobs.get(key)
            if job is not None and job.done():
                del self._jobs[key], self._logs[key]

    async def ended(self, key: str, seen: int) -> list[tuple[int, int, dict[str, Any]]]:
        """(number of work, number of spec, row) of an evaluation under way in the order in which they ended, from the
        `seen`-th on."""
        return self._logs.get(key, [])[seen:]

    async def _run(
        self,
        works: Sequence[RolloutJob],
        specs: Sequence[EpisodeSpec],
        rule: StopRule | None,
        known: Mapping[tuple[int, int], dict[str, Any]],
        log: list[tuple[int, int, dict[str, Any]]],
    ) -> list[list[dict[str, Any]]]:
        loop = asyncio.get_running_loop()
        tasks = {name: get_task(name) for name in {spec.task for spec in specs}}
        items = [
            [
                QueuedEpisode(work, spec, tasks[spec.task].suite, loop.create_future(), tasks[spec.task].slots)
                for spec in specs
            ]
            for work in works
        ]
        for w, row in enumerate(items):
            for s, item in enumerate(row):
                if (w, s) in known:
                    item.done.set_result(known[w, s])
                else:
                    item.done.add_done_callback(functools.partial(_note, log, w, s))
        if rule is None:
            order = [item for row in items for item in row]
        else:
            blocks = range(0, len(specs), BLOCK)
            order = [item for start in blocks for row in items for item in row[start : start + BLOCK]]
        order = [item for item in order if not item.done.done()]
        async with self._wake:
            self._queue.extend(order)
            self._wake.notify_all()
        ends = await self._follow(items, rule) if rule is not None else {}
        rows: list[list[dict[str, Any]]] = []
        for number, row in enumerate(items):
            done = [await item.done for item in row[: ends.get(number, len(row))]]
            rows.append([r for r in done if r is not None])
        return rows

    async def _follow(self, items: list[list[QueuedEpisode]], rule: StopRule) -> dict[int, int]:
        """Show the rule what is known until all works are measured; take back what it does not want."""
        values: list[list[float]] = [[] for _ in items]
        ends: dict[int, int] = {}
        while True:
            open_items = []
            for row, known in zip(items, values, strict=True):
                while len(known) < len(row) and row[len(known)].done.done():
                    ended = row[len(known)].done.result()
                    known.append(math.nan if ended is None else value_of(ended))
            ends = rule.update(values)
            for number, row in enumerate(items):
                end = ends.get(number, len(row))
                await self._take_back(row[end:])
                if len(values[number]) < end:
                    open_items.append(row[len(values[number])].done)
            if not open_items:
                return ends
            await asyncio.wait(open_items, return_when=asyncio.FIRST_COMPLETED)

    async def _take_back(self, items: Sequence[QueuedEpisode]) -> None:
        """Remove what is not begun; what is under way ends and is not looked at."""
        unwanted = {id(item) for item in items if not item.done.done()}
        if not unwanted:
            return
        async with self._wake:
            for item in [i for i in self._queue if id(i) in unwanted]:
                item.done.set_result(None)
            self._queue = deque(i for i in self._queue if id(i) not in unwanted)

    async def stats(self) -> dict[str, Any]:
        return vars(self._stats) | {
            "workers": len(self._slots),
            "queued": len(self._queue),
            "pids": sorted(slot.pid for slot in self._slots if slot.pid),
            "spans": self._stats.spans[-100_000:],
        }

    # --- workers ----------------------------------------------------------------------------------------------------

    async def _work(self, slot: WorkerSlot) -> None:
        while True:
            try:
                await self._ensure_worker(slot)
            except (RayError, TimeoutError) as error:
                await self._fail_start(slot, error)
                continue
            if slot.worker is None:  # its place was given back
                continue
            self._failed_starts = 0
            orders = await self._orders(slot)
            if slot.worker is None:  # the next work is of another suite
                continue
            await self._exchange(slot, orders)

    async def _watch(self) -> None:
        """Machines come and go, and places with them."""
        while True:
            async with self._wake:
                if rebalance(self._slots, self._options):
                    self._wake.notify_all()
            await asyncio.sleep(WATCH)

    async def _ensure_worker(self, slot: WorkerSlot) -> None:
        if slot.worker is not None:
            return
        async with self._wake:
            await self._wake.wait_for(lambda: not slot.released)
        # A simulator of the next work's task is built, at first of the pool's own.
        task = self._queue[0].spec.task if self._queue and slot.suite else self._task
        slot.suite, slot.finished = get_task(task).suite, 0
        self._started += 1
        if not await slot.start(self._options, task, self._started, self._loader):
            slot.dismiss()

    async def _orders(self, slot: WorkerSlot) -> list[tuple[int, RolloutJob, EpisodeSpec]]:
        """What the worker gets now; waits while it has nothing and there is nothing."""
        async with self._wake:
            await self._wake.wait_for(lambda: self._queue or slot.in_flight or slot.released)
            recycling = slot.released or 0 < self._options.recycle <= slot.finished + len(slot.in_flight)
            next_item = self._next(slot)
            if recycling or (next_item is None and not slot.in_flight):
                if not slot.in_flight:
                    self._stats.recycled += not slot.released
                    slot.dismiss()
                return []
            orders = []
            while next_item is not None and self._fits(slot, next_item):
                item = next_item
                self._queue.remove(item)
                self._numbers += 1
                slot.in_flight[self._numbers] = item
                orders.append((self._numbers, item.work, item.spec))
                next_item = self._next(slot)
            return orders

    def _next(self, slot: WorkerSlot) -> QueuedEpisode | None:
        """The first in the queue that this process's suite can run."""
        return next((item for item in self._queue if item.suite == slot.suite), None)

    def _fits(self, slot: WorkerSlot, item: QueuedEpisode) -> bool:
        if not slot.in_flight:
            return True
        if item.alone or any(i.alone for i in slot.in_flight.values()):
            return False
        slots = 1 if self._options.render else self._options.slots or item.slots
        ahead = slots + int(SECONDS_AHEAD / max(self._mean_seconds, 1e-4))
        # Towards the end everybody gets the same share, so that all end together.
        given = sum(len(s.in_flight) for s in self._slots)
        share = math.ceil((len(self._queue) + given) / len(self._slots))
        if item.slots <= HEAVY:  # half of it: how long episodes take is known when they have ended
            share = max(2, math.ceil(share / 2))
        recycle = self._options.recycle - slot.finished if self._options.recycle else ahead
        return len(slot.in_flight) < min(ahead, share, max(recycle, 1))

    async def _exchange(self, slot: WorkerSlot, orders: list[tuple[int, RolloutJob, EpisodeSpec]]) -> None:
        assert slot.worker is not None
        started = time.time()
        backlog = max(1, len(slot.in_flight) // 4)
        try:
            report: Report = await asyncio.wait_for(
                slot.worker.exchange.remote(orders, PATIENCE, backlog), PATIENCE + self._options.deadline
            )
        except TimeoutError:
            await self._replace(slot, f"no answer within {self._options.deadline:g} s (hung)", blame=None)
            return
        except RayActorError as error:
            await self._replace(slot, f"the simulator process died ({type(error).__name__})", blame=None)
            return
        finally:
            self._stats.busy_seconds += time.time() - started
            self._stats.spans.append((started, time.time()))
        problem, blame = "", None
        for number, row in report.rows:
            if "exception" in row:
                problem, blame = row["exception"], number
            else:
                self._finish(slot, number, row)
        if report.broken:
            await self._replace(slot, problem, blame)
        elif report.stalled > self._options.deadline:
            await self._replace(slot, f"no answer within {self._options.deadline:g} s (hung)", report.now)

    def _finish(self, slot: WorkerSlot, number: int, row: dict[str, Any]) -> None:
        item = slot.in_flight.pop(number)
        slot.finished += 1
        self._stats.episodes += 1
        self._stats.steps += row["steps"]
        self._metrics.ended(item.spec.task, row["outcome"], row["steps"])
        self._mean_seconds += 0.1 * (row["seconds"] - self._mean_seconds)
        _settle(item, row | {"retries": item.failures})

    async def _replace(self, slot: WorkerSlot, problem: str, blame: int | None) -> None:
        """End a process that is not to be trusted; its episodes are run again. Without a name to blame, each of them
        alone: the one that does it again is found."""
        given, blamed = slot.in_flight, slot.in_flight.get(blame or -1)
        if blamed is None and len(given) == 1:
            blamed = next(iter(given.values()))
        slot.dismiss()
        self._stats.restarts += 1
        async with self._wake:
            for item in reversed(given.values()):
                if item is not blamed:
                    item.alone = item.alone or blamed is None
                    self._queue.appendleft(item)
            if blamed is not None:
                blamed.failures += 1
                blamed.alone = True
                self._stats.retries += 1
                if blamed.failures > RETRIES:
                    self._give_up(blamed, problem)
                else:
                    self._queue.appendleft(blamed)
            self._wake.notify_all()

    async def _fail_start(self, slot: WorkerSlot, error: BaseException) -> None:
        """A simulator could not be started. Where that repeats, all who wait are told, instead of waiting for ever."""
        slot.dismiss()
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

    def _give_up(self, item: QueuedEpisode, problem: str) -> None:
        self._stats.errors += 1
        self._metrics.ended(item.spec.task, "error", 0)
        retries = max(0, item.failures - 1)
        row = EpisodeResult(item.spec.index, item.spec.seed, "error", 0.0, 0, 0.0, retries=retries, message=problem)
        _settle(item, row.to_row())


def _note(log: list[tuple[int, int, dict[str, Any]]], work: int, spec: int, done: asyncio.Future[Any]) -> None:
    if not done.cancelled() and done.result() is not None:
        log.append((work, spec, done.result()))


def _settle(item: QueuedEpisode, row: dict[str, Any]) -> None:
    if not item.done.done():
        item.done.set_result(row)
