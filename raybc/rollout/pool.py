"""`RolloutPool`: simulator processes as Ray actors, shared by everything that needs episodes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybc.cluster.answers import answer_of
from raybc.cluster.capacity import SIMULATOR, placement, total
from raybc.cluster.nodes import require_everywhere
from raybc.registry import get_task
from raybc.rollout.dispatcher import Dispatcher
from raybc.rollout.engine import Rollout, RolloutJob
from raybc.rollout.on_gpu import on_gpus_of
from raybc.rollout.options import PoolOptions
from raybc.rollout.stop import StopRule
from raybc.rows import EpisodeRow, PoolStats
from raybc.types import EpisodeSpec

#: Seconds between calls of `on_wait`.
WAIT_INTERVAL = 0.3
#: What a dispatcher may take to end its evaluations when the pool is closed.
ANSWER_SECONDS = 2.0


class RolloutPool:
    """A handle to simulator processes; it can be sent to other actors."""

    def __init__(self, dispatcher: ActorHandle, workers: int) -> None:
        self._dispatcher, self.workers = dispatcher, workers
        self._under_way: list[ray.ObjectRef] = []  # evaluations that this handle has started

    def __reduce__(self) -> tuple[type[RolloutPool], tuple[ActorHandle, int]]:
        return RolloutPool, (self._dispatcher, self.workers)

    @classmethod
    def start(cls, task: str, workers: int, tasks: Sequence[str] = (), **options: Any) -> RolloutPool:
        """Start `workers` simulator processes and build a simulator of `task` in each.

        tasks: others that specs will name. options: `PoolOptions`. Raises `UserError` where the environment of a task
        is not built on every machine.
        """
        known = [get_task(name) for name in dict.fromkeys((task, *tasks))]
        for environment in {each.environment for each in known}:
            if environment is not None:
                require_everywhere(environment)
        here = ray.get_runtime_context().get_node_id()
        gpus_here = sum(node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["NodeID"] == here)
        workers, options = on_gpus_of(known, workers, options, total("GPU"), gpus_here)
        options = {"resources": placement(SIMULATOR), **options}
        # On the caller's machine: if that is the head of a cluster, machines that come and go do not take it down.
        # (Not `soft`: Ray then puts actors without CPUs anywhere.)
        on_this_machine = NodeAffinitySchedulingStrategy(here, soft=False)
        remote = ray.remote(Dispatcher).options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=on_this_machine,
            name=f"rollouts of {task} ({uuid.uuid4().hex[:6]})",
        )
        dispatcher = remote.remote(task, workers, PoolOptions(**options))
        dispatcher.start.options(max_task_retries=0).remote()  # not retried if the pool is closed at once
        return cls(dispatcher, workers)

    def submit(
        self,
        key: str,
        jobs: Sequence[RolloutJob],
        specs: Sequence[EpisodeSpec],
        rule: StopRule | None = None,
        known: Mapping[tuple[int, int], EpisodeRow] | None = None,
    ) -> ray.ObjectRef:
        """Start an evaluation; `answer_of` returns what `evaluate` does. `key` names it (see
        `Dispatcher.evaluate`)."""
        ref: ray.ObjectRef = self._dispatcher.evaluate.remote(key, list(jobs), list(specs), rule, known)
        if self._under_way:
            _, self._under_way = ray.wait(self._under_way, num_returns=len(self._under_way), timeout=0)
        self._under_way.append(ref)
        return ref

    def finished(self, key: str, skip: int) -> list[tuple[int, int, EpisodeRow]]:
        """Rows of a running evaluation, in the order in which they ended (see `Dispatcher.finished`)."""
        return answer_of(self._dispatcher.finished.remote(key, skip))

    def evaluate(
        self,
        key: str,
        jobs: Sequence[RolloutJob],
        specs: Sequence[EpisodeSpec],
        rule: StopRule | None = None,
        known: Mapping[tuple[int, int], EpisodeRow] | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> list[list[EpisodeRow]]:
        """Rows of each job, in the order of specs. `on_wait` is called every `WAIT_INTERVAL` seconds meanwhile.

        Raises `UserError` where a task is unknown in Ray's processes."""
        ref = self.submit(key, jobs, specs, rule, known)
        if on_wait is not None:
            while not ray.wait([ref], timeout=WAIT_INTERVAL)[0]:
                on_wait()
        return answer_of(ref)

    def stats(self) -> PoolStats:
        return answer_of(self._dispatcher.stats.remote())

    def close(self) -> None:
        """End the dispatcher, and its workers with it. Closing twice does no harm."""
        # Ray prints a warning for every call that is under way when its actor is killed. A dispatcher that does not
        # answer is killed anyway.
        answers = [self._dispatcher.abandon.options(max_task_retries=0).remote(), *self._under_way]
        ray.wait(answers, num_returns=len(answers), timeout=ANSWER_SECONDS)
        self._under_way = []
        ray.kill(self._dispatcher)

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


__all__ = ["PoolOptions", "Rollout", "RolloutPool", "StopRule"]
