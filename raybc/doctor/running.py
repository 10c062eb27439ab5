"""A running cluster: who may connect to it, whether its machines match, and resources that dead jobs still hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from raybc.cluster.capacity import Machine, allocate_sweep, machines
from raybc.cluster.nodes import NodeAnswer, ask_all, unshared
from raybc.doctor.findings import Finding, error, ok, warning
from raybc.doctor.machine import VITAL, check_facts, facts
from raybc.sweep.config import SweepConfig
from raybc.types import UserError

#: Hexadecimal digits of the job in the id of a placement group, at its end.
JOB_DIGITS = 8


def check_cluster(storage: Path | None, pins: dict[str, str], fix: bool) -> Iterator[Finding]:
    """All findings about the connected cluster."""
    cpus = sum(m.cpus() for m in machines())
    answers = ask_all(facts)
    yield ok("cluster", f"{len(answers)} machines, {cpus:g} CPUs including machines that may still start")
    for answer in answers:
        if answer.problem:
            yield error("machines", f"{answer.node}: {answer.problem}", "install the same raybc there (tools/)")
        else:
            yield from check_facts(answer.node, answer.value, pins)
            if answer.value["token"] != "token":
                do = "start Ray with RAY_AUTH_MODE=token on every machine"
                yield error("token", f"{answer.node}: anyone who can reach its ports can run code there", do)
    answered = [a for a in answers if not a.problem]
    yield from _equal(answered)
    yield from equal_environments(answered)
    if storage is not None:
        yield from _storage(storage)
    elif len(answers) > 1:
        yield warning("storage", "no shared folder was given", "--storage FOLDER checks it on every machine")
    yield from leaks(fix)


def _equal(answers: list[NodeAnswer]) -> Iterator[Finding]:
    """Whether all machines run the same versions."""
    seen: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        for name in VITAL:
            seen[name][answer.value["packages"].get(name, "none")].append(answer.node)
        seen["python"][answer.value["python"]].append(answer.node)
    differ = False
    for name, by_version in seen.items():
        if len(by_version) > 1:
            differ = True
            versions = "; ".join(f"{version} on {', '.join(nodes)}" for version, nodes in sorted(by_version.items()))
            yield error("versions", f"{name} differs: {versions}", "install from constraints.txt on every machine")
    if not differ and len(answers) > 1:
        yield ok("versions", f"{len(answers)} machines have the same {', '.join(['Python', *VITAL])}")


def equal_environments(answers: list[NodeAnswer]) -> Iterator[Finding]:
    """Whether environments that some machines have are complete and the same on all of them."""
    names = sorted({name for a in answers for name in a.value.get("environments", {})})
    for name in names:
        by_key: dict[str, list[str]] = defaultdict(list)
        for answer in answers:
            state, _, key = answer.value.get("environments", {}).get(name, ("missing", "", ""))
            by_key[key if state == "complete" else f"({state})"].append(answer.node)
        if len(by_key) > 1 and any(not key.startswith("(") for key in by_key):
            what = "; ".join(f"{key} on {', '.join(nodes)}" for key, nodes in sorted(by_key.items()))
            do = f"raybc env build {name} on every machine, or RAYBC_HOME on a disk that all of them see"
            yield error("environments", f"{name} differs: {what}", do)


def _storage(folder: Path) -> Iterator[Finding]:
    problems = unshared([folder])
    for problem in problems:
        yield error("storage", problem, "mount the same disk on every machine, writable for the user of Ray")
    if not problems:
        yield ok("storage", f"{folder} is one disk, writable on every machine")


def leaks(fix: bool) -> Iterator[Finding]:
    """Placement groups of jobs that have ended: they hold CPUs, so later jobs would wait for ever."""
    dead = {job["JobID"] for job in ray._private.state.jobs() if job["IsDead"]}
    found = False
    for hexadecimal, group in placement_group_table().items():
        job = hexadecimal[-JOB_DIGITS:]
        if job not in dead or group["state"] == "REMOVED":
            continue
        found = True
        held = ", ".join(f"{n:g} {r}" for r, n in sorted(_sum(group["bundles"]).items()))
        what = f"{hexadecimal} of job {job}, which has ended, holds {held}"
        if fix:
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(hexadecimal)))
            yield ok("placement groups", f"{what}: removed")
        else:
            yield error("placement groups", what, "python -m raybc.doctor --address ADDRESS --fix")
    if not found:
        yield ok("placement groups", "no job that has ended holds any")


def _sum(bundles: dict[int, dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for bundle in bundles.values():
        for name, amount in bundle.items():
            total[name] += amount
    return total


def check_allocation(config: SweepConfig, among: list[Machine], what: str) -> Finding:
    """Whether the trials and simulators of a sweep fit on machines."""
    resources, trials = config.resources, config.search.max_concurrent
    try:
        allocation = allocate_sweep(
            among,
            trials=trials,
            trial_cpus=resources.trial_cpus,
            workers=resources.workers,
            worker_cpus=resources.worker_cpus,
            device=config.train.device,
        )
    except UserError as problem:
        return error("resources", f"{what}: {problem}", "or add machines")
    gpus = f", each with {allocation.gpus:g} GPU" if allocation.gpus else ""
    return ok("resources", f"{what}: {trials} trials at a time{gpus} beside {allocation.workers} simulators")
