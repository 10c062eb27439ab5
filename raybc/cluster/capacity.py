"""What the machines of a Ray have, which work they are for, and whether a sweep fits.

A machine with the custom resource `trainer` runs trials, one with `simulator` runs simulators. If no machine has a
resource, all machines do that work, so a local Ray and a cluster of equal machines need neither. The amount means
nothing: only CPUs limit what runs on a machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray

from raybc.types import UserError
from raybc.yaml_text import read_yaml

TRAINER, SIMULATOR = "trainer", "simulator"
#: The amount that a trial or a simulator reserves: so little that any number of them fits on a machine.
SHARE = 0.001
#: Where `ray up` puts the cluster file on the head, which is where drivers run.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")


@dataclass(frozen=True)
class Machine:
    """A running machine, or `count` equal machines that the autoscaler may start."""

    resources: dict[str, float]
    count: int = 1

    def cpus(self) -> float:
        return self.count * self.resources.get("CPU", 0.0)


def machines() -> list[Machine]:
    """Machines of the connected Ray: those that run, and those that its cluster file allows to start."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    running = [Machine({k: float(v) for k, v in node["Resources"].items()}) for node in alive]
    types = [node.get("Labels", {}).get("ray.io/node-group", "") for node in alive]
    return running + _startable(BOOTSTRAP.expanduser(), types) if _is_cluster(alive) else running


def _is_cluster(alive: list[dict[str, Any]]) -> bool:
    """Whether `ray start` made the head: a local Ray must ignore the file of an earlier cluster."""
    return any(node.get("Labels", {}).get("ray.io/node-group") for node in alive)


def _startable(path: Path, types: list[str]) -> list[Machine]:
    """Machines that may still be started; none if that is unknown."""
    return machines_of(read_yaml(path, "a cluster file"), types) if path.exists() else []


def machines_of(config: Any, types: Sequence[str] = ()) -> list[Machine]:
    """The machines that a cluster file allows beside running ones of these `types`; what is no number is left out."""
    found = []
    if not isinstance(config, dict):
        return []
    most, kinds = _whole(config.get("max_workers"), 0), config.get("available_node_types")
    for name, kind in kinds.items() if isinstance(kinds, dict) else ():
        resources = kind.get("resources") if isinstance(kind, dict) else None
        if not isinstance(resources, dict) or name == config.get("head_node_type"):
            continue
        count = min(_whole(kind.get("max_workers"), most), most) - types.count(name)
        numbers = {str(k): float(v) for k, v in resources.items() if isinstance(v, int | float) and abs(v) < 2**53}
        if count > 0 and numbers.get("CPU"):
            found.append(Machine(numbers, count))
    return found


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def for_role(role: str, among: list[Machine]) -> list[Machine]:
    """The machines that do this work."""
    return [m for m in among if m.resources.get(role)] or among


def placement(role: str) -> dict[str, float]:
    """The custom resources that work of this role reserves in the connected Ray."""
    return {role: SHARE} if any(m.resources.get(role) for m in machines()) else {}


def total(resource: str) -> float:
    """How much of a resource the machines of the connected Ray have now."""
    return float(ray.cluster_resources().get(resource, 0))


def simulator_cpus() -> float:
    """CPUs of the connected Ray on which simulators may run."""
    return sum(m.cpus() for m in for_role(SIMULATOR, machines()))


def allocate_workers(cpus: float, *, trials: int, trial_cpus: float, workers: int, worker_cpus: float) -> int:
    """How many simulator processes to start beside the trials; refuses numbers with which work would wait for ever.

    workers = 0: as many as fit.
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
    """CPUs left for simulators when trials hold `held` CPUs."""
    trainers, simulators = for_role(TRAINER, among), for_role(SIMULATOR, among)
    own = sum(m.cpus() for m in trainers if m not in simulators)  # CPUs that simulators could not use anyway
    return sum(m.cpus() for m in simulators) - max(0.0, held - own)


def trials_with_room(among: list[Machine], trials: int, trial_cpus: float, worker_cpus: float, simulators: bool) -> int:
    """How many of `trials` concurrent ones a machine with a single CPU has room for beside a simulator; elsewhere all:
    if there are too many, `allocate_sweep` refuses them, since the user can choose."""
    cpus = sum(machine.cpus() for machine in among)
    if not 0 < cpus < 2:
        return trials
    room = cpus - (worker_cpus if simulators else 0.0)
    return max(1, min(trials, int(room / trial_cpus + 1e-9))) if trial_cpus > 0 else trials


@dataclass(frozen=True)
class SweepAllocation:
    """What a sweep runs at the same time."""

    workers: int
    """Simulator processes."""
    threads: int
    """Threads per trial."""
    gpus: float
    """GPUs (or a share of one) per trial."""


def allocate_sweep(
    among: list[Machine],
    *,
    trials: int,
    trial_cpus: float,
    workers: int,
    worker_cpus: float,
    device: str,
    simulators: bool = True,
    gpu_left: float = 1.0,
) -> SweepAllocation:
    """What fits if trials and simulators may have separate machines.

    simulators: whether there are any. gpu_left: how much of each GPU they leave for trials.
    """
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
    count = 0
    if simulators:
        count = allocate_workers(cpus, trials=trials, trial_cpus=trial_cpus, workers=workers, worker_cpus=worker_cpus)
    smallest = min((m.resources.get("CPU", 0.0) for m in trainers if m.cpus()), default=1.0)
    threads = max(1, int(min(most // trials, smallest)))
    gpus = sum(m.count * m.resources.get("GPU", 0.0) for m in trainers)
    return SweepAllocation(count, threads, gpu_share(gpus, trials, device, gpu_left))


def gpu_share(gpus: float, trials: int, device: str, left: float = 1.0) -> float:
    """GPUs per concurrent trial such that all trials fit; 0 if the device needs none. left: how much of each GPU they
    may have."""
    if device == "cpu" or not gpus:
        if device.startswith("cuda"):
            raise UserError(f"train.device: {device!r} asked for, but the cluster has no GPU")
        return 0.0
    return left / math.ceil(trials / gpus)
