"""The dispatcher of a `RolloutPool`: an actor that owns the simulator processes and hands out episodes.

It has one queue for all callers (trials of a sweep, the final evaluation, demonstrations), so workers stay warm across
checkpoints, trials and tasks, and are never idle while there is work. A call hands a worker its next episodes and
returns those that ended; the worker refills its simulators from what it has been given, so none waits for the slowest.

Faults. A worker that raises, dies or makes no progress before the deadline is replaced by a fresh process. If the
faulty episode is known (it raised or hung), it is run again; if a process just died, each of its episodes is run again
alone (of a large batch first in smaller groups), which finds the faulty one. When it is reported as `error` instead,
`retries.py` decides. Every spec gets exactly one row.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
from ray.exceptions import RayActorError, RayError, RayTaskError

from raybc.cluster.metrics import RolloutMetrics
from raybc.inference.shared import SharedLoader, start_server
from raybc.registry import get_task
from raybc.rollout.engine import Demonstration, RolloutJob
from raybc.rollout.faults import POLICY, Fault, did_not_start, died, error_kind, error_row, hung
from raybc.rollout.options import PoolOptions
from raybc.rollout.queued import FinishedEpisode, QueuedEpisode, Stats, choose, log_episode, settle, suspected
from raybc.rollout.retries import RETRIES, Retries, not_run
from raybc.rollout.stop import StopRule, whole_blocks
from raybc.rollout.worker import Assignment, Loader, Report
from raybc.rollout.worker_slots import WATCH_INTERVAL, WorkerSlot, rebalance
from raybc.rows import EpisodeRow, PoolStats
from raybc.types import EpisodeSpec, UserError

#: A task that recommends at most this many slots steps slowly: calls cost little beside its episodes, and a long
#: episode that starts last delays the end a lot.
SLOTS_OF_SLOW_TASKS = 8
#: Seconds of work that a worker is given beyond what is in its slots (a call costs about 1 ms).
SECONDS_AHEAD = 0.5
#: Maximum seconds between reports of a worker, so that one that hangs is noticed.
REPORT_INTERVAL = 0.25
#: Seconds before a worker that could not be started is started again.
RESTART_DELAY = 0.5


class Dispatcher:
    """An asyncio actor: a queue of episodes and a loop for each worker."""

    def __init__(self, task: str, workers: int, options: PoolOptions) -> None:
        self._task, self._options = task, options
        self._queue: deque[QueuedEpisode] = deque()
        self._wake = asyncio.Condition()
        self._stats = Stats()
        self._mean_seconds = 1.0
        self._evaluations: dict[str, asyncio.Task[list[list[EpisodeRow]]]] = {}
        self._finished: dict[str, list[FinishedEpisode]] = {}
        self._slots = [WorkerSlot() for _ in range(workers)]
        self._loops: list[asyncio.Task[None]] = []
        self._failed_starts = 0
        self._retries = Retries()
        self._numbers = self._started = 0
        self._shared: SharedLoader | None = None
        self._metrics = RolloutMetrics()

    async def start(self) -> None:
        """Start the workers; returns immediately while they warm up."""
        self._ensure_loops()

    def _ensure_loops(self) -> None:
        # Also called by `evaluate`: a dispatcher that Ray restarted after a crash has lost its loops.
        if not self._loops:
            if self._options.shared:
                self._shared = SharedLoader(start_server(self._options.gpus))
            self._loops = [asyncio.ensure_future(loop) for loop in (*map(self._serve, self._slots), self._watch())]

    # --- evaluations ------------------------------------------------------------------------------------------------

    async def evaluate(
        self,
        key: str,
        jobs: Sequence[RolloutJob],
        specs: Sequence[EpisodeSpec],
        rule: StopRule | None = None,
        known: Mapping[tuple[int, int], EpisodeRow] | None = None,
    ) -> list[list[EpisodeRow]]:
        """Run every spec of every job once (until `rule` ends the job); rows of each job in the order of specs.

        known: rows measured earlier, by number of job and spec; they are not measured again.

        A second call with the same key while the first is running waits for the same episodes, so a trial that was
        killed and restarted does not double the work.
        """
        self._ensure_loops()
        if key not in self._evaluations:
            self._retries.begin()
            self._finished[key] = []
            self._evaluations[key] = asyncio.ensure_future(
                self._evaluate(key, jobs, specs, rule, known or {}, self._finished[key])
            )
        try:
            return await asyncio.shield(self._evaluations[key])
        finally:
            evaluation = self._evaluations.get(key)
            if evaluation is not None and evaluation.done():
                del self._evaluations[key], self._finished[key]

    async def abandon(self) -> None:
        """End every evaluation that is under way; whoever waits for one gets an error."""
        for evaluation in self._evaluations.values():
            evaluation.cancel()

    async def finished(self, key: str, skip: int) -> list[FinishedEpisode]:
        """Episodes of a running evaluation in the order in which they ended, without the first `skip`."""
        return self._finished.get(key, [])[skip:]

    async def _evaluate(
        self,
        key: str,
        jobs: Sequence[RolloutJob],
        specs: Sequence[EpisodeSpec],
        rule: StopRule | None,
        known: Mapping[tuple[int, int], EpisodeRow],
        log: list[FinishedEpisode],
    ) -> list[list[EpisodeRow]]:
        loop = asyncio.get_running_loop()
        tasks = {name: get_task(name) for name in {spec.task for spec in specs}}
        size = len(specs) if rule is None else whole_blocks(len(tasks))
        items = [
            [
                QueuedEpisode(
                    job, spec, tasks[spec.task].suite, loop.create_future(), self._options.slots_of(tasks[spec.task]),
                    key, number // size, len(tasks) > 1,
                )
                for number, spec in enumerate(specs)
            ]
            for job in jobs
        ]  # fmt: skip
        for j, row in enumerate(items):
            for s, item in enumerate(row):
                if (j, s) in known:
                    item.done.set_result(known[j, s])
                else:
                    item.done.add_done_callback(functools.partial(log_episode, log, j, s))
        if rule is None:
            order = [item for row in items for item in row]
        else:
            blocks = range(0, len(specs), size)
            order = [item for start in blocks for row in items for item in row[start : start + size]]
        order = [item for item in order if not item.done.done()]
        async with self._wake:
            self._queue.extend(order)
            self._wake.notify_all()
        ends = await self._apply_rule(items, rule) if rule is not None else {}
        rows: list[list[EpisodeRow]] = []
        for number, row in enumerate(items):
            done = [await item.done for item in row[: ends.get(number, len(row))]]
            rows.append([r for r in done if r is not None])
        return rows

    async def _apply_rule(self, items: list[list[QueuedEpisode]], rule: StopRule) -> dict[int, int]:
        """Show results to the rule until every job has ended; drop the episodes that it makes unnecessary."""
        values: list[list[float]] = [[] for _ in items]
        ends: dict[int, int] = {}
        while True:
            missing = []
            for row, known in zip(items, values, strict=True):
                while len(known) < len(row) and row[len(known)].done.done():
                    result = row[len(known)].done.result()
                    known.append(math.nan if result is None else rule.value_of(result))
            ends = rule.update(values)
            for number, row in enumerate(items):
                end = ends.get(number, len(row))
                await self._drop(row[end:])
                if len(values[number]) < end:
                    missing.append(row[len(values[number])].done)
            if not missing:
                return ends
            await asyncio.wait(missing, return_when=asyncio.FIRST_COMPLETED)

    async def _drop(self, items: Sequence[QueuedEpisode]) -> None:
        """Remove episodes that have not started from the queue; results of running ones will be ignored."""
        unwanted = {id(item) for item in items if not item.done.done()}
        if not unwanted:
            return
        async with self._wake:
            for item in [i for i in self._queue if id(i) in unwanted]:
                item.done.set_result(None)
            self._queue = deque(i for i in self._queue if id(i) not in unwanted)

    async def stats(self) -> PoolStats:
        pids = sorted(slot.pid for slot in self._slots if slot.pid)
        return self._stats.row(len(self._slots), len(self._queue), pids)

    # --- workers ----------------------------------------------------------------------------------------------------

    async def _serve(self, slot: WorkerSlot) -> None:
        """The loop of a slot: keep a process in it and give that process episodes."""
        while True:
            try:
                await self._ensure_worker(slot)
                if slot.worker is not None and not slot.prepared and not self._demonstrates(slot):
                    await slot.prepare()
            except (RayError, TimeoutError, UserError) as error:
                await self._fail_start(slot, error)
                continue
            if slot.worker is None:  # the slot was released
                continue
            self._failed_starts = 0
            assignments = await self._assign(slot)
            if slot.worker is None:  # the next episode is of another suite
                continue
            await self._exchange(slot, assignments)

    async def _watch(self) -> None:
        """Release and restore slots as machines come and go."""
        while True:
            async with self._wake:
                if rebalance(self._slots, self._options):
                    self._wake.notify_all()
            await asyncio.sleep(WATCH_INTERVAL)

    async def _ensure_worker(self, slot: WorkerSlot) -> None:
        if slot.worker is not None:
            return
        async with self._wake:
            await self._wake.wait_for(lambda: not slot.released)
        # The first process of a slot builds a simulator of the pool's own task, later ones of the next episode's task.
        task = self._queue[0].spec.task if self._queue and slot.suite else self._task
        slot.suite, slot.task, slot.finished = get_task(task).suite, task, 0
        self._started += 1
        if not await slot.start(self._options, task, self._started, self._loader_for(task)):
            slot.dismiss()

    def _demonstrates(self, slot: WorkerSlot) -> bool:
        """Whether what the process runs, or is given next, are demonstrations, which need no policy."""
        if slot.in_flight:  # it is prepared before the first episode that needs one
            return True
        item = self._next(slot)
        return item is not None and isinstance(item.job, Demonstration)

    def _loader_for(self, task: str) -> Loader | None:
        """How a process of this task gets at policies; None: it computes them itself."""
        if self._shared is None and get_task(task).environment is not None:  # there is no torch
            self._shared = SharedLoader(start_server(0.0))
        return self._shared if self._options.shared or get_task(task).environment is not None else None

    async def _assign(self, slot: WorkerSlot) -> list[Assignment]:
        """The worker's next episodes; waits while it has none and the queue is empty."""
        async with self._wake:
            await self._wake.wait_for(lambda: self._queue or slot.in_flight or slot.released)
            recycling = slot.released or 0 < self._options.recycle <= slot.finished + len(slot.in_flight)
            next_item = self._next(slot)
            if recycling or (next_item is None and not slot.in_flight):
                if not slot.in_flight:
                    self._stats.recycled += not slot.released
                    slot.dismiss()
                return []
            assignments = []
            while next_item is not None and self._fits(slot, next_item):
                item = next_item
                self._queue.remove(item)
                slot.task = item.spec.task
                self._numbers += 1
                slot.in_flight[self._numbers] = item
                assignments.append((self._numbers, item.job, item.spec))
                next_item = self._next(slot)
            return assignments

    def _next(self, slot: WorkerSlot) -> QueuedEpisode | None:
        """The next episode in the queue that this process's suite can run."""
        others = {other.task for other in self._slots if other is not slot}
        return choose(self._queue, slot.suite, slot.task, others)

    def _fits(self, slot: WorkerSlot, item: QueuedEpisode) -> bool:
        if not slot.in_flight:
            return True
        limits = [i.most for i in (item, *slot.in_flight.values()) if i.most]
        if limits and len(slot.in_flight) >= min(limits):
            return False
        ahead = item.slots + int(SECONDS_AHEAD / max(self._mean_seconds, 1e-4))
        # Towards the end every worker gets the same share, so that all end together.
        given = sum(len(s.in_flight) for s in self._slots)
        share = math.ceil((len(self._queue) + given) / len(self._slots))
        if item.slots <= SLOTS_OF_SLOW_TASKS:  # half a share: how long episodes take is known only when they end
            share = max(2, math.ceil(share / 2))
        recycle = self._options.recycle - slot.finished if self._options.recycle else ahead
        return len(slot.in_flight) < min(ahead, share, max(recycle, 1))

    async def _exchange(self, slot: WorkerSlot, assignments: list[Assignment]) -> None:
        assert slot.worker is not None
        started = time.time()
        backlog = max(1, len(slot.in_flight) // 4)
        try:
            report: Report = await asyncio.wait_for(
                slot.worker.exchange.remote(assignments, REPORT_INTERVAL, backlog, self._retries.proven),
                REPORT_INTERVAL + self._options.deadline,
            )
        except TimeoutError:
            await self._replace(slot, hung(self._options.deadline))
            return
        except RayActorError as error:
            await self._replace(slot, died(error))
            return
        finally:
            self._stats.busy_seconds += time.time() - started
            self._stats.spans.append((started, time.time()))
        faults: list[tuple[int, Fault]] = []
        for number, result in report.ended:
            if isinstance(result, Fault):
                faults.append((number, result))
            else:
                self._finish(slot, number, result)
        if report.broken:
            number, fault = faults[-1]
            await self._replace(slot, fault, number)
        elif report.stalled > self._options.deadline:
            await self._replace(slot, hung(self._options.deadline), report.current)

    def _finish(self, slot: WorkerSlot, number: int, row: EpisodeRow) -> None:
        item = slot.in_flight.pop(number)
        slot.finished += 1
        self._stats.episodes += 1
        if row["outcome"] == "error":
            self._stats.errors += 1
            if error_kind(row) == POLICY:
                self._give_up_after(item, Fault(POLICY, row["message"]))
        else:
            self._retries.worked(item.job, item.spec)
        self._stats.steps += row["steps"]
        self._metrics.ended(item.spec.task, row["outcome"], row["steps"])
        self._mean_seconds += 0.1 * (row["seconds"] - self._mean_seconds)
        row["retries"] = item.failures
        settle(item, row)

    async def _replace(self, slot: WorkerSlot, fault: Fault, number: int = -1) -> None:
        """End a process that is not to be trusted, and run its episodes again.

        number: the faulty episode. If it is not known, smaller groups and then each episode alone find it."""
        given, faulty = slot.in_flight, slot.in_flight.get(number)
        if faulty is None and len(given) == 1:
            faulty = next(iter(given.values()))
        slot.dismiss()
        self._stats.restarts += 1
        async with self._wake:
            for item in reversed(given.values()):
                if item is not faulty:
                    if faulty is None:
                        suspected(item, len(given))
                    self._queue.appendleft(item)
            if faulty is not None:
                faulty.failures += 1
                faulty.most = 1
                self._stats.retries += 1
                if self._retries.again(faulty.failures, fault):
                    self._queue.appendleft(faulty)
                else:
                    self._give_up(faulty, fault)
                    self._give_up_others(faulty, fault)
            self._wake.notify_all()

    async def _fail_start(self, slot: WorkerSlot, error: BaseException) -> None:
        """A simulator process could not be started. If that repeats, all queued episodes become errors: otherwise
        their callers would wait for ever."""
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
                self._give_up(item, did_not_start(reason))
        await asyncio.sleep(RESTART_DELAY)

    def _give_up_others(self, failed: QueuedEpisode, fault: Fault) -> None:
        """If the rest of the job of an episode that failed is hopeless, its queued episodes of that task become errors,
        too."""
        if not self._retries.hopeless(failed.job, failed.spec):
            return
        alike = (failed.job, failed.spec.task)
        others = [item for item in self._queue if (item.job, item.spec.task) == alike]
        self._queue = deque(item for item in self._queue if (item.job, item.spec.task) != alike)
        for item in others:
            self._give_up(item, not_run(fault))

    def _give_up_after(self, failed: QueuedEpisode, fault: Fault) -> None:
        """A policy that gives no actions in many neighbouring starts is not asked in the others."""
        self._retries.gave_up(failed.job, failed.spec, 0, fault)
        self._give_up_others(failed, fault)

    def _give_up(self, item: QueuedEpisode, fault: Fault) -> None:
        self._stats.errors += 1
        self._retries.gave_up(item.job, item.spec, item.failures, fault)
        self._metrics.ended(item.spec.task, "error", 0)
        settle(item, error_row(item.spec, fault, max(0, item.failures - 1)))
