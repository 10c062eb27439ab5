"""`RolloutPool`: simulator processes as Ray actors, for all who want episodes run."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybc.cluster.capacity import SIMULATOR, placement
from raybc.rollout.dispatcher import Dispatcher
from raybc.rollout.engine import Rollout, RolloutJob
from raybc.rollout.options import PoolOptions
from raybc.rollout.stop import StopRule
from raybc.types import EpisodeSpec


class RolloutPool:
    """A handle on simulator processes; it can be sent to other actors."""

    def __init__(self, dispatcher: ActorHandle, workers: int) -> None:
        self._dispatcher, self.workers = dispatcher, workers

    @classmethod
    def start(cls, task: str, workers: int, **options: Any) -> RolloutPool:
        """Start `workers` simulator processes, warm for `task` (specs name their own). options: `PoolOptions`."""
        options = {"resources": placement(SIMULATOR), **options}
        # Beside its caller: where that is the head of a cluster, machines that come and go do not take it with them.
        # (Not `soft`: Ray puts actors without CPUs anywhere then.)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote = ray.remote(Dispatcher).options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=here,
            name=f"rollouts of {task} ({uuid.uuid4().hex[:6]})",
        )
        dispatcher = remote.remote(task, workers, PoolOptions(**options))
        dispatcher.start.options(max_task_retries=0).remote()  # not tried again when the pool is closed at once
        return cls(dispatcher, workers)

    def submit(
        self,
        key: str,
        works: Sequence[RolloutJob],
        specs: Sequence[EpisodeSpec],
        rule: StopRule | None = None,
        known: Mapping[tuple[int, int], dict[str, Any]] | None = None,
    ) -> ray.ObjectRef:
        """Start an evaluation; `ray.get` gives what `evaluate` does. `key` names it (see `Dispatcher.evaluate`)."""
        return self._dispatcher.evaluate.remote(key, list(works), list(specs), rule, known)

    def ended(self, key: str, seen: int) -> list[tuple[int, int, dict[str, Any]]]:
        """Rows of an evaluation under way as they end (see `Dispatcher.ended`)."""
        return ray.get(self._dispatcher.ended.remote(key, seen))

    def evaluate(
        self, key: str, works: Sequence[RolloutJob], specs: Sequence[EpisodeSpec], rule: StopRule | None = None
    ) -> list[list[dict[str, Any]]]:
        """Rows of each work, in the order of specs."""
        return ray.get(self.submit(key, works, specs, rule))

    def stats(self) -> dict[str, Any]:
        """Counters since the start: episodes, steps, retries, errors, restarts, recycled, busy_seconds, queued, pids,
        spans."""
        return ray.get(self._dispatcher.stats.remote())

    def close(self) -> None:
        """End the dispatcher; its workers end with it. Nothing happens when it was closed before."""
        ray.kill(self._dispatcher)

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


__all__ = ["PoolOptions", "Rollout", "RolloutPool", "StopRule"]
