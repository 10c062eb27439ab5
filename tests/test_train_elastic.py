"""Workers whose number changes: as many as there is room for, and the same training as one process.

On two CPUs: a CPU that is held by something else, one that becomes free, a machine that is lost.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raybc.bundle import PolicyBundle
from tests.helpers import run_train

#: Long enough for a group to be replaced in between; a state at every fiftieth step.
LONG = ("--training_steps=3000", "--eval_interval=3000", "--save_interval=50", "--log_interval=50", "--threads=1")
SHORT = ("--training_steps=300", "--eval_interval=300", "--threads=1")
#: Polling of Ray Train's controller; by itself it looks every two seconds.
POLLING = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


def equal(folders: list[Path], tolerance: float) -> None:
    one, other = (PolicyBundle.load(f / "final_model") for f in folders)
    assert one.run_id == other.run_id
    torch.testing.assert_close(dict(one.weights), dict(other.weights), rtol=tolerance, atol=tolerance)


def wait_for(path: Path, alive: threading.Thread) -> None:
    while alive.is_alive() and not path.exists():
        time.sleep(0.05)
    assert path.exists()


# --- what is decided ------------------------------------------------------------------------------------------------


def group(nodes: dict[int, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What Ray Train tells of a group with bundles on these machines ("" is one that was lost)."""
    from raybc.train import elastic

    monkeypatch.setattr(elastic, "placement_group_table", lambda _: {"bundles_to_node_id": nodes})
    handle = SimpleNamespace(placement_group=object())
    return SimpleNamespace(placement_group_handle=handle, num_workers=len(nodes), start_time=float("-inf"))


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """For 1 to 6 workers, on machines a and b of 4 CPUs each; `policy.free` is what is free there."""
    from ray.train import ScalingConfig

    from raybc.train import elastic

    policy = elastic.FreeWorkers(
        ScalingConfig(num_workers=(1, 6), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=0),
        tmp_path / "state",
    )
    policy.free = {"a": {"CPU": 2.0}, "b": {"CPU": 0.5, "memory": 1.0}}
    monkeypatch.setattr(elastic, "available_resources_per_node", lambda: policy.free)
    monkeypatch.setattr(elastic, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: {"a": {"CPU": 4}, "b": {"CPU": 4}})
    return policy


def test_what_is_free_counts(policy: Any, tmp_path: Path) -> None:
    from ray.train.v2._internal.execution.scaling_policy import NoopDecision

    from raybc.train.elastic import starts

    assert policy.make_decision_for_non_running_worker_group().num_workers == 2
    policy.free = {"a": {}, "b": {"memory": 1.0}}
    for _ in range(2):
        assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)
    assert starts(tmp_path) == [(None, 0)]  # said once
    policy.free = {"a": {"CPU": 4.0}, "b": {"CPU": 4.0}}
    assert policy.make_decision_for_non_running_worker_group().num_workers == 6


def test_what_the_group_itself_holds_is_free_for_the_next(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2._internal.execution.controller.state import InitializingState, RunningState

    assert policy.make_decision_for_non_running_worker_group().num_workers == 2
    policy.free = {"a": {}, "b": {}}
    policy.after_controller_state_update(InitializingState(), RunningState())  # it started, and died unseen
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2
    policy.free = {"b": {"CPU": 1.0}}
    policy.make_decision_for_running_worker_group(group({0: "b", 1: "b", 2: ""}, monkeypatch), None)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 3
    assert policy.make_decision_for_non_running_worker_group().num_workers == 1  # that one could not be started


def test_a_group_grows_after_a_state_and_does_not_shrink(
    policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.train.v2._internal.execution.scaling_policy import NoopDecision

    def decide(nodes: dict[int, str]) -> Any:
        return policy.make_decision_for_running_worker_group(group(nodes, monkeypatch), None)

    assert isinstance(decide({0: "a"}), NoopDecision)
    (tmp_path / "state").touch()
    policy.free = {}
    assert isinstance(decide({0: "a", 1: ""}), NoopDecision)
    os.utime(tmp_path / "state", (1, 1))
    policy.free = {"a": {"CPU": 2.0}, "b": {"CPU": 0.5}}
    assert decide({0: "a"}).num_workers == 3


# --- what is computed -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(ray_cpus: float, pointmass_demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with the flags `LONG`."""
    out = tmp_path_factory.mktemp("alone") / "one"
    assert run_train(pointmass_demos, out, *LONG) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("workers", [("--num_workers=2",), ("--num_workers=8", "--min_workers=1")])
def test_fsdp_by_the_command(ray_cpus: float, pointmass_demos: Path, tmp_path: Path, workers: tuple[str, ...]) -> None:
    """With two workers, also where up to eight were asked for and Ray has CPUs for two."""
    from raybc.train.elastic import starts

    assert run_train(pointmass_demos, tmp_path / "some", *workers, "--parallel=fsdp", *SHORT) == 0
    assert starts(tmp_path / "some") == [(0, 2)]
    assert run_train(pointmass_demos, tmp_path / "one", *SHORT) == 0
    equal([tmp_path / "one", tmp_path / "some"], 1e-5)


@pytest.mark.slow
def test_a_group_begins_beside_others_and_grows(
    ray_cpus: float, pointmass_demos: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two CPUs is held: one worker begins. It becomes free: two go on from the state that was saved last."""
    import ray

    from raybc.train import elastic

    monkeypatch.setenv(*next(iter(POLLING.items())))
    monkeypatch.setattr(elastic, "GROW_SECONDS", 1.0)
    out = tmp_path / "two"
    held = ray.remote(num_cpus=1)(SimpleNamespace).remote()
    status: list[int] = []
    training = threading.Thread(
        target=lambda: status.append(run_train(pointmass_demos, out, "--num_workers=2", "--min_workers=1", *LONG))
    )
    training.start()
    try:
        wait_for(out / "state.safetensors", training)
    finally:
        ray.kill(held)
        training.join()
    assert status == [0]
    (first, one), (then, two) = elastic.starts(out)
    assert (first, one, two) == (0, 1, 2)
    assert then
    assert then % 50 == 0
    equal([alone, out], 1e-5)


def lose_a_machine(rank: int, dataset: str, folder: str) -> None:
    """In a process of its own: a cluster of two machines with a CPU each, of which one is lost while two train."""
    os.environ |= POLLING
    from ray.cluster_utils import Cluster

    import raybc.cluster

    raybc.cluster.session._ensure_token()
    raybc.cluster.session._use_token()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second, out = cluster.add_node(num_cpus=1), Path(folder)
    cluster.wait_for_nodes()
    status: list[int] = []
    with raybc.cluster.session.ray_session(cluster.address):
        training = threading.Thread(
            target=lambda: status.append(run_train(Path(dataset), out, "--num_workers=2", "--min_workers=1", *LONG))
        )
        training.start()
        wait_for(out / "state.safetensors", training)
        cluster.remove_node(second, allow_graceful=False)
        training.join()
    cluster.shutdown()
    assert status == [0]


@pytest.mark.slow
def test_a_machine_is_lost(alone: Path, pointmass_demos: Path, tmp_path: Path) -> None:
    """One worker goes on where two saved the last state."""
    from raybc.train.elastic import starts

    out = tmp_path / "lost"
    torch.multiprocessing.spawn(lose_a_machine, (str(pointmass_demos), str(out)), nprocs=1)
    (first, two), (then, one) = starts(out)
    assert (first, two, one) == (0, 2, 1)
    assert then
    assert then % 50 == 0
    equal([alone, out], 1e-5)
