"""How many training workers there are where their number may change: as many as Ray has free, between least and most.

Ray Train decides when it starts a group of workers, and so after every loss of one. By itself (2.60) it counts what the
machines have rather than what is free (`_update_cluster_node_resources` of its autoscaling coordinator takes
node["Resources"]). Where anything else holds a CPU it asks for a placement group that never comes, and after a minute
for the same one again, for ever. And it lets a group grow in mid-air, which costs the steps since the last state. So
its policy is kept, with three changes: only what is free counts, a group grows right after it has saved its state, and
it never shrinks while it is whole.
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

#: Seconds after a start before a group may be started anew to be larger (a start takes about ten).
GROW_SECONDS = 60.0
#: Seconds between looks for free machines where there are too few; by itself the controller looks all the time.
WAIT_SECONDS = 1.0
#: Seconds that a placement group may take for which there was room when it was asked for. There is none after all when
#: a machine was lost: the other workers notice that before Ray does.
PLACE_SECONDS = 10


def note_start(out: Path, step: int | None, workers: int) -> None:
    """A row of workers.csv: so many workers train from this step on (0, None: they wait until there is room)."""
    path = out / "workers.csv"
    begun = path.exists()
    with path.open("a", newline="") as handle:
        csv.writer(handle).writerows([*([] if begun else [("step", "workers")]), (step, workers)])


def starts(out: Path) -> list[tuple[int | None, int]]:
    """What was noted; a line that is being written is not there yet."""
    path = out / "workers.csv"
    lines = path.read_bytes().decode().splitlines(keepends=True)[1:] if path.exists() else []
    rows = csv.reader(line for line in lines if line.endswith("\n"))
    return [(int(step) if step else None, int(workers)) for step, workers in rows]


class FreeWorkers(ElasticScalingPolicy):
    """Lives in Ray Train's controller. state: the file that a group writes at its stops."""

    def __init__(self, scaling: Any, state: Path) -> None:
        super().__init__(scaling)
        self._state = state
        self._stamp = 0
        self._waiting = False
        # What the group holds that is there, or is about to be replaced: its placement group as soon as it was seen,
        # before that the number of its workers.
        self._group: Any = None
        self._unseen = 0
        self._asked = 0

    def after_controller_start(self, train_run_context: Any) -> None:
        os.environ.setdefault(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, str(PLACE_SECONDS))  # of the controller's process
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
        self._unseen, self._group = 0, worker_group_state.placement_group_handle.placement_group
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
            self._unseen = self._asked
            self._newly_saved()

    def _about_to_start(self, decision: Any) -> None:
        """The group that is there ends before the next starts, so it holds nothing any more."""
        self._asked, self._unseen, self._group = decision.num_workers, 0, None

    def _newly_saved(self) -> bool:
        """Whether a state was written since this was asked last."""
        before, self._stamp = self._stamp, self._state.stat().st_mtime_ns if self._state.exists() else 0
        return self._stamp != before

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        """What fits into what is free or held by the group itself, at most what Ray has reserved for this training."""
        share = {k: v for k, v in self.scaling_config._resources_per_worker_not_none.items() if v > 0}
        held = Counter(placement_group_table(self._group)["bundles_to_node_id"].values() if self._group else ())
        fits = self._unseen
        for machine, free in available_resources_per_node().items():
            fits += held[machine] + min(int(free.get(k, 0) / v + 1e-9) for k, v in share.items())
        return min(super()._count_possible_workers(reserved_resources), fits)


class ElasticTrainer(TorchTrainer):
    """Ray's trainer, whose number of workers `FreeWorkers` decides."""

    def __init__(self, *args: Any, state: Path, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = state

    def _initialize_and_run_controller(self, **told: Any) -> Any:
        policy = FreeWorkers(self.scaling_config, self._state)
        return super()._initialize_and_run_controller(**{**told, "scaling_policy": policy})
