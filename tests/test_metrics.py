"""What Prometheus and Ray's dashboard can read of rollouts and trials, and under which names."""

from __future__ import annotations

import time
import urllib.request

import pytest

from raybc.cluster.metrics import RolloutMetrics, SweepMetrics
from raybc.rollout.pool import RolloutPool


@pytest.mark.slow
def test_counters_arrive_where_prometheus_reads_them(ray_cpus: float) -> None:
    import ray

    with RolloutPool.start("pointmass", 1, worker_cpus=0.2) as pool:
        pool.stats()
        names = {a["name"] for a in ray.util.list_named_actors(all_namespaces=True)}
        assert any(name.startswith("rollouts of pointmass") for name in names), names
    rollouts, sweep = RolloutMetrics(), SweepMetrics("mine")
    rollouts.ended("pointmass", "success", 30)
    rollouts.ended("pointmass", "error", 0)
    sweep.trained(200)
    sweep.over("pruned")
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    end = time.monotonic() + 60
    text = ""
    while "raybc_trials" not in text:
        assert time.monotonic() < end, [line for line in text.splitlines() if "raybc" in line]
        time.sleep(1)
        text = urllib.request.urlopen(url, timeout=5).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("ray_raybc_")]
    told = {line.split("{")[0]: float(line.split()[-1]) for line in lines}
    assert told["ray_raybc_member_steps_total"] == 200.0, lines
    assert told["ray_raybc_simulator_steps_total"] >= 30.0
    assert sum('outcome="error"' in line and 'task="pointmass"' in line for line in lines) == 1
