"""What the machines of a Ray have, which of them are for what, and whether a plan fits.

A machine with the custom resource `trainer` is for trials, one with `simulator` for simulators. Where no machine has
it, every machine is for it, so a local Ray and a cluster of equal machines need neither. The amount means nothing:
what limits a machine are its CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.strict import parse_yaml
from raybc.types import UserError

TRAINER, SIMULATOR = "trainer", "simulator"
#: What a trial or a simulator takes of it: any number of them may be on a machine.
SHARE = 0.001
#: Where `ray up` leaves the cluster's file on the head, which is where drivers run.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")


@dataclass(frozen=True)
class Machine:
    """One machine that is there, or `count` that the autoscaler may start."""

    resources: dict[str, float]
    count: int = 1

    def cpus(self) -> float:
        return self.count * self.resources.get("CPU", 0.0)


def machines() -> list[Machine]:
    """Of the connected Ray: machines that are there, and those that the cluster's file allows beside them."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    there = [Machine({k: float(v) for k, v in node["Resources"].items()}) for node in alive]
    types = [node.get("Labels", {}).get("ray.io/node-group", "") for node in alive]
    return there + _to_come(BOOTSTRAP.expanduser(), types) if _is_cluster(alive) else there


def _is_cluster(alive: list[dict[str, Any]]) -> bool:
    """A Ray with a head that `ray start` made: the file of an earlier cluster means nothing to a local Ray."""
    return any(node.get("Labels", {}).get("ray.io/node-group") for node in alive)


def _to_come(path: Path, types: list[str]) -> list[Machine]:
    """Machines that may still be started; none where that is not known (then only what is there counts)."""
    return machines_of(parse_yaml(path.read_text(encoding="utf-8"), str(path)), types) if path.exists() else []


def machines_of(config: dict[str, Any], types: Sequence[str] = ()) -> list[Machine]:
    """The machines that a cluster's file allows, beside some of these `types`."""
    found = []
    most = config.get("max_workers", 0)
    for name, kind in config.get("available_node_types", {}).items():
        count = min(kind.get("max_workers", most), most) - types.count(name)
        if count > 0 and name != config.get("head_node_type") and kind.get("resources", {}).get("CPU"):
            found.append(Machine({k: float(v) for k, v in kind["resources"].items()}, count))
    return found


def for_role(role: str, among: list[Machine]) -> list[Machine]:
    """Those machines that do this work."""
    return [m for m in among if m.resources.get(role)] or among


def placement(role: str) -> dict[str, float]:
    """The custom resources that work of this role asks for in the connected Ray."""
    return {role: SHARE} if any(m.resources.get(role) for m in machines()) else {}


def simulator_cpus() -> float:
    """CPUs of the connected Ray on which simulators may run."""
    return sum(m.cpus() for m in for_role(SIMULATOR, machines()))


def allocate_workers(cpus: float, *, trials: int, trial_cpus: float, workers: int, worker_cpus: float) -> int:
    """How many simulator processes fit beside the trials; a plan that would wait for ever is refused with its numbers.

    workers = 0 asks for as many as fit.
    """
    left = cpus - trials * trial_cpus
    fits = int(left / worker_cpus + 1e-9)
    if fits < max(workers, 1):
        raise UserError(
            f"resources: {trials} concurrent trial(s) x {trial_cpus:g} CPU + {max(workers, 1)} worker(s) x "
            f"{worker_cpus:g} CPU = {trials * trial_cpus + max(workers, 1) * worker_cpus:g} CPU, but the cluster has "
            f"{cpus:g}: the sweep would wait for ever; lower --max-concurrent or resources.workers"
        )
    return workers or fits


def room_for_simulators(among: list[Machine], held: float) -> float:
    """CPUs that are left to simulators when trials hold `held`."""
    trainers, simulators = for_role(TRAINER, among), for_role(SIMULATOR, among)
    own = sum(m.cpus() for m in trainers if m not in simulators)  # held there, it takes nothing from simulators
    return sum(m.cpus() for m in simulators) - max(0.0, held - own)


@dataclass(frozen=True)
class SweepAllocation:
    """What a sweep runs side by side. threads: of a trial. gpus: the share of a GPU that a trial holds."""

    workers: int
    threads: int
    gpus: float


def allocate_sweep(
    among: list[Machine], *, trials: int, trial_cpus: float, workers: int, worker_cpus: float, device: str
) -> SweepAllocation:
    """What fits where trials and simulators may have machines of their own."""
    trainers = for_role(TRAINER, among)
    held = trials * trial_cpus
    most = sum(m.cpus() for m in trainers)
    if held > most:
        raise UserError(
            f"resources: {trials} concurrent trial(s) x {trial_cpus:g} CPU = {held:g} CPU, but the machines for trials "
            f"(resource {TRAINER!r}) have {most:g}: the sweep would wait for ever; lower --max-concurrent"
            if any(m.resources.get(TRAINER) for m in among)
            else f"resources: {trials} concurrent trial(s) x {trial_cpus:g} CPU = {held:g} CPU, but the cluster has "
            f"{most:g}: the sweep would wait for ever; lower --max-concurrent"
        )
    cpus = room_for_simulators(among, held) + held
    count = allocate_workers(cpus, trials=trials, trial_cpus=trial_cpus, workers=workers, worker_cpus=worker_cpus)
    smallest = min((m.resources.get("CPU", 0.0) for m in trainers if m.cpus()), default=1.0)
    threads = max(1, int(min(most // trials, smallest)))
    gpus = sum(m.count * m.resources.get("GPU", 0.0) for m in trainers)
    return SweepAllocation(count, threads, gpu_share(gpus, trials, device))


def gpu_share(gpus: float, trials: int, device: str) -> float:
    """A share of a GPU for each concurrent trial, such that all of them find a place, where the device asks for one."""
    if device == "cpu" or not gpus:
        if device.startswith("cuda"):
            raise UserError(f"train.device: {device!r} asked for, but the cluster has no GPU")
        return 0.0
    return 1.0 / math.ceil(trials / gpus)
