"""Elastic training: as many workers as Ray has free resources for, between min_workers and max_workers.

Ray Train chooses the size of a worker group whenever it starts one, also after the loss of a worker. Ray 2.60 counts
the total resources of each machine, not the free ones (`_update_cluster_node_resources` of its autoscaling coordinator
takes node["Resources"]). If another process holds a CPU, Ray Train requests a placement group that can never be placed,
and requests it again every minute. It also resizes a group at any time, which loses the steps since the last state.
`FreeWorkers` changes three things: it counts free resources only, it lets a group grow only after a state was saved,
and it never shrinks a healthy group.
"""

from __future__ import annotations

import csv
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
from ray._private.state import available_resources_per_node
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.execution.controller.state import RunningState
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision
from ray.util import placement_group_table

from raybc.run_folder import TrainingFolder

#: Seconds after a start before a group may be restarted with more workers (a start takes about 10 s).
GROW_SECONDS = 60.0
#: Seconds between checks for free resources while there are too few; the controller itself does not pause.
WAIT_SECONDS = 1.0
#: Timeout in seconds for a placement group. It fails only if a machine was lost: the other workers notice that before
#: Ray does.
PLACE_SECONDS = 10


def note_start(out: Path, step: int | None, workers: int) -> None:
    """Add a row to workers.csv.

    Args:
        out: the run folder.
        step: first step of the group; None: no group, waiting for resources.
        workers: size of the group; 0 while waiting.
    """
    path = TrainingFolder(out).workers_csv
    exists = path.exists()
    with path.open("a", newline="") as handle:
        csv.writer(handle).writerows([*([] if exists else [("step", "workers")]), (step, workers)])


def starts(out: Path) -> list[tuple[int | None, int]]:
    """The complete rows of workers.csv, (step, workers)."""
    path = TrainingFolder(out).workers_csv
    lines = path.read_bytes().decode().splitlines(keepends=True)[1:] if path.exists() else []
    rows = csv.reader(line for line in lines if line.endswith("\n"))
    return [(int(step) if step else None, int(workers)) for step, workers in rows]


class FreeWorkers(ElasticScalingPolicy):
    """Scaling policy in Ray Train's controller process."""

    def __init__(self, scaling: Any, state: Path) -> None:
        """state: the training state that workers save."""
        super().__init__(scaling)
        self._state = state
        self._state_mtime_ns = 0
        self._waiting = False
        # Resources that the current group holds. Its placement group once it is known, until then its size.
        self._group: Any = None
        self._unplaced_workers = 0
        self._requested_workers = 0

    def after_controller_start(self, train_run_context: Any) -> None:
        os.environ.setdefault(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, str(PLACE_SECONDS))  # in the controller's process
        super().after_controller_start(train_run_context)

    def make_decision_for_non_running_worker_group(self) -> Any:
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, ResizeDecision):
            self._about_to_start(decision)
            self._waiting = False
        elif isinstance(decision, NoopDecision):
            if not self._waiting:
                note_start(self._state.parent, None, 0)
            self._waiting = True
            time.sleep(WAIT_SECONDS)
        return decision

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        self._unplaced_workers, self._group = 0, worker_group_state.placement_group_handle.placement_group
        if not self._newly_saved():
            self._maybe_send_resource_request()
            return NoopDecision()
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision):
            if decision.num_workers < worker_group_state.num_workers:
                return NoopDecision()
            self._about_to_start(decision)
        return decision

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if isinstance(current_state, RunningState) and not isinstance(previous_state, RunningState):
            self._unplaced_workers = self._requested_workers
            self._newly_saved()

    def _about_to_start(self, decision: Any) -> None:
        """The current group ends before the next one starts, so it no longer holds resources."""
        self._requested_workers, self._unplaced_workers, self._group = decision.num_workers, 0, None

    def _newly_saved(self) -> bool:
        """Whether a state was saved since the last call."""
        before = self._state_mtime_ns
        self._state_mtime_ns = self._state.stat().st_mtime_ns if self._state.exists() else 0
        return self._state_mtime_ns != before

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        """Workers that fit into free resources and those of the current group, limited by what Ray reserved."""
        share = {k: v for k, v in self.scaling_config._resources_per_worker_not_none.items() if v > 0}
        in_group = Counter(placement_group_table(self._group)["bundles_to_node_id"].values() if self._group else ())
        fits = self._unplaced_workers
        for machine, free in available_resources_per_node().items():
            fits += in_group[machine] + min(int(free.get(k, 0) / v + 1e-9) for k, v in share.items())
        return min(super()._count_possible_workers(reserved_resources), fits)


class ElasticTrainer(TorchTrainer):
    """`TorchTrainer` with `FreeWorkers` as its scaling policy."""

    def __init__(self, *args: Any, state: Path, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = state

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = FreeWorkers(self.scaling_config, self._state)
        return super()._initialize_and_run_controller(**{**arguments, "scaling_policy": policy})
