"""Counters among Ray's own metrics: on the dashboard's Metrics page and for Prometheus (with the prefix `ray_`).

Rates are computed in queries: `rate(ray_raybc_episodes_total[1m])` is rollouts per second.
"""

from __future__ import annotations

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
from ray.util.metrics import Counter


class RolloutMetrics:
    """Work of simulators, counted when episodes end."""

    def __init__(self) -> None:
        self._episodes = Counter("raybc_episodes", "Episodes that ended.", tag_keys=("task", "outcome"))
        self._steps = Counter("raybc_simulator_steps", "Steps of simulators in episodes.", tag_keys=("task",))

    def ended(self, task: str, outcome: str, steps: int) -> None:
        self._episodes.inc(tags={"task": task, "outcome": outcome})
        if steps:
            self._steps.inc(steps, tags={"task": task})


class SweepMetrics:
    """Work of trials, counted when their results are in the ledger."""

    def __init__(self, sweep: str) -> None:
        self._tags = {"sweep": sweep}
        self._steps = Counter("raybc_member_steps", "Training steps, summed over members.", tag_keys=("sweep",))
        self._trials = Counter("raybc_trials", "Trials that have ended.", tag_keys=("sweep", "status"))

    def trained(self, steps: int) -> None:
        self._steps.inc(steps, tags=self._tags)

    def over(self, status: str) -> None:
        self._trials.inc(tags=self._tags | {"status": status})
