"""Slots for simulator processes: how many there may be, and how a process is started in one.

On a cluster, machines come and go. If some are gone for good, trials and simulators could hold the last CPUs that the
other needs and wait for ever. A pool therefore releases slots: it keeps what is left beside the trials, and if the
trials alone need more than there is, it keeps one simulator that reserves nothing.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybc.cluster.capacity import SIMULATOR, machines, room_for_simulators
from raybc.registry import get_task
from raybc.rollout.options import PoolOptions
from raybc.rollout.worker import Loader, SimWorker

#: Seconds between checks of the cluster's machines.
WATCH_INTERVAL = 3.0
#: Seconds that a new simulator process may take to build its first simulator, once it runs.
START_DEADLINE = 180.0
#: The same of one that steps many worlds together: it may first compile code for this machine.
COMPILE_DEADLINE = 1800.0


class WorkerSlot:
    """A slot for one worker process."""

    def __init__(self) -> None:
        self.worker: ActorHandle | None = None
        self.suite = ""
        self.task = ""
        """The task that it was given last; the process has simulators of it."""
        self.in_flight: dict[int, Any] = {}
        """Episodes that the process is running, by number."""
        self.finished = 0
        """Episodes that this process has finished."""
        self.pid = 0
        self.prepared = False
        """Whether the process can compute actions."""
        self.released = False
        """The slot must be given up."""
        self.unreserved = False
        """The process reserves no CPU."""

    async def start(self, options: PoolOptions, task: str, number: int, loader: Loader | None) -> bool:
        """Start a process with a simulator of `task`; False if the slot was released meanwhile."""
        where: Any = "SPREAD"
        if self.unreserved:
            where = NodeAffinitySchedulingStrategy(_machine_with_cpus(), soft=False)
        of = get_task(task)
        inside = {} if of.environment is None else {"runtime_env": of.environment.runtime_env()}
        on_gpu = of.gpu_slots > 0 and options.worker_gpus > 0
        remote = ray.remote(SimWorker).options(
            num_cpus=0 if self.unreserved else options.worker_cpus, num_gpus=options.worker_gpus if on_gpu else 0,
            resources=options.resources, max_restarts=0,
            scheduling_strategy=where, name=f"simulator {number} of {task} (pool {os.getpid()})", **inside,
        )  # fmt: skip
        self.worker = remote.remote(options.render, options.slots_of(of) if on_gpu else options.slots, loader)
        # The process may have to wait for a machine that is starting, or that replaces one that died.
        ready = asyncio.ensure_future(_result(self.worker.__ray_ready__.remote()))
        while not ready.done() and not self.released:
            await asyncio.wait([ready], timeout=WATCH_INTERVAL)
        if not ready.done():
            ready.cancel()
            return False
        await ready
        warm = self.worker.warm_up.remote(task)
        deadline = START_DEADLINE if of.make_batch is None else COMPILE_DEADLINE
        self.pid = await asyncio.wait_for(_result(warm), deadline)
        return True

    async def prepare(self) -> None:
        """Let the process import what computes actions."""
        assert self.worker is not None
        await asyncio.wait_for(_result(self.worker.prepare.remote()), START_DEADLINE)
        self.prepared = True

    def dismiss(self) -> None:
        if self.worker is not None:
            ray.kill(self.worker)
        self.worker, self.in_flight, self.pid, self.prepared = None, {}, 0, False


async def _result(ref: Any) -> Any:
    return await ref


def _machine_with_cpus() -> str:
    """The node with the most CPUs among those for simulators (the head of a cluster may have none)."""
    alive = [n for n in ray.nodes() if n["Alive"]]
    alive = [n for n in alive if n["Resources"].get(SIMULATOR)] or alive
    best: str = max(alive, key=lambda n: n["Resources"].get("CPU", 0.0))["NodeID"]
    return best


def rebalance(slots: list[WorkerSlot], options: PoolOptions) -> bool:
    """Decide which slots are released; whether anything changed."""
    before = [slot.released for slot in slots]
    count = _capacity(options, len(slots))
    if count:
        running_first = sorted(slots, key=lambda slot: slot.pid == 0)
        for number, slot in enumerate(running_first):
            slot.released = number >= count
            slot.unreserved = slot.unreserved and slot.worker is not None
    else:
        # One slot stays, without a reservation: the one that has none already, else one without a process.
        stays = next(
            (s for s in slots if s.unreserved and s.worker), next((s for s in slots if s.worker is None), None)
        )
        for slot in slots:
            slot.released = slot is not stays
        if stays is not None and stays.worker is None:
            stays.unreserved = True
    return before != [slot.released for slot in slots]


def _capacity(options: PoolOptions, most: int) -> int:
    """How many workers the machines have room for, at most `most`."""
    if options.worker_cpus <= 0:
        return most
    return max(0, min(most, int(room_for_simulators(machines(), options.reserved) / options.worker_cpus + 1e-9)))
