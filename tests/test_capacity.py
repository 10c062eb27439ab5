"""What a plan makes of machines with and without roles, and of machines that are still to come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raybc.cluster import capacity
from raybc.cluster.capacity import Machine, allocate_sweep, gpu_share, machines_of
from raybc.types import UserError
from raybc.yaml_text import parse_yaml

ROOT = Path(__file__).parents[1]
HEAD = Machine({})
TRAINER = Machine({"CPU": 8, "GPU": 1, "trainer": 1})
SIMULATOR = Machine({"CPU": 16, "simulator": 1}, count=4)
PLAIN = Machine({"CPU": 2})


def plan(among: list[Machine], **changes: Any) -> capacity.SweepAllocation:
    asked: dict[str, Any] = {"trials": 2, "trial_cpus": 0.5, "workers": 0, "worker_cpus": 0.5, "device": "auto"}
    return allocate_sweep(among, **{**asked, **changes})


def test_equal_machines_are_for_everything() -> None:
    assert plan([PLAIN]) == capacity.SweepAllocation(workers=2, threads=1, gpus=0.0)
    assert plan([PLAIN, PLAIN, PLAIN]).workers == 10
    assert plan([PLAIN, PLAIN], workers=1, trials=1).threads == 2, "a trial's threads are those of one machine"


def test_roles_separate_trials_from_simulators() -> None:
    assert plan([HEAD, TRAINER, SIMULATOR]) == capacity.SweepAllocation(workers=128, threads=4, gpus=0.5)
    both = Machine({"CPU": 4, "trainer": 1, "simulator": 1})
    assert plan([both, SIMULATOR], trials=2).workers == 128 + 6


@pytest.mark.parametrize(
    ("among", "changes", "words"),
    [
        ([PLAIN], {"trials": 4}, ("4 concurrent", "2.5 CPU", "lower --max-concurrent")),
        ([PLAIN], {"trials": 40}, ("40 concurrent", "20 CPU", "the cluster has 2")),
        ([HEAD, TRAINER, SIMULATOR], {"trials": 17}, ("'trainer'", "have 8")),
        ([HEAD, TRAINER, SIMULATOR], {"workers": 129}, ("129 worker", "wait for ever")),
        ([HEAD], {}, ("the cluster has 0",)),
        ([PLAIN], {"device": "cuda"}, ("no GPU",)),
    ],
)
def test_a_plan_that_waits_for_ever_is_refused(
    among: list[Machine], changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as refused:
        plan(among, **changes)
    assert all(word in str(refused.value) for word in words), refused.value


def test_all_trials_find_a_share_of_a_gpu() -> None:
    assert gpu_share(1, 2, "auto") == 0.5
    assert gpu_share(2, 3, "auto") == 0.5, "two thirds would leave the third trial without a place"
    assert gpu_share(8, 2, "cuda") == 1.0
    assert gpu_share(8, 2, "cpu") == 0.0


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-gcp.yaml"])
def test_machines_to_come_are_those_of_the_file(name: str) -> None:
    config = parse_yaml((ROOT / name).read_text(), name)
    found = machines_of(config)
    assert {(m.count, m.resources["CPU"], m.resources.get("GPU", 0)) for m in found} == {(2, 8, 1), (4, 16, 0)}
    beside = machines_of(config, ["head", "trainer", "simulator", "simulator"])
    assert sorted(m.count for m in beside) == [1, 2], "those that run are counted as they are"
    assert plan([HEAD, *found], trials=4).workers == 128


def test_a_local_ray_has_no_machines_to_come(ray_cpus: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    bootstrap.write_text((ROOT / "cluster.yaml").read_text())
    monkeypatch.setattr(capacity, "BOOTSTRAP", bootstrap)
    assert [m.cpus() for m in capacity.machines()] == [ray_cpus]
    assert capacity.placement(capacity.SIMULATOR) == {}
