"""Everything that is read from disk, damaged: it is read, or refused with `UserError`; it never crashes, hangs, takes
memory without bound, or runs code.

`make test` reads some hundred copies of each kind, `make test-all` 100,000. A copy is a function of its kind and
number, so one that fails is made again by `run(kind, folder, number, 1)`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raybc.bundle import META, PolicyBundle
from raybc.cluster.capacity import machines_of
from raybc.config.command import _read_file
from raybc.data import formats
from raybc.data.episodes import EpisodeStore
from raybc.data.plan.files import load_plan, save_plan
from raybc.doctor.cluster_file import check_file
from raybc.strict import digest
from raybc.sweep.ledger import SweepState, read_events
from raybc.sweep.load import load_sweep
from raybc.train import checkpointing
from raybc.yaml_text import read_yaml
from tests.conformance.formats import CASES, Case, full_store
from tests.helpers import ROOT, pointmass_bundle, tiny_trainer
from tests.mutations import Kind, run
from tests.plans import tiny_plan

GOLDEN = ROOT / "tests" / "golden" / "v0.1.0"
COPIES, ALL_COPIES = 200, 100_000


def small_store(images: bool) -> EpisodeStore:
    """Two short episodes with everything that a store can have: reading fewer bytes and arrays is faster."""
    whole, rows = full_store(images=images), np.r_[0:2, 5:8]
    assert whole.terminals_N is not None
    assert whole.states_NS is not None
    assert whole.success_E is not None
    obs = {name: array[rows] for name, array in whole.obs.items() if name != "cube"}
    return dataclasses.replace(
        whole,
        obs={name: array[:, :8, :8] if name == "camera" else array for name, array in obs.items()},
        actions_NA=whole.actions_NA[rows],
        rewards_N=whole.rewards_N[rows],
        episode_ends=np.array([2, 5]),
        splits={"train": np.array([0]), "valid": np.array([1])},
        terminals_N=whole.terminals_N[rows],
        states_NS=whole.states_NS[rows],
        tasks=whole.tasks[:2],
        success_E=whole.success_E[:2],
    )


def format_kind(case: Case) -> Kind:
    def write(path: Path) -> None:
        store = small_store(case.images and case.name not in ("a.hdf5", "episodes"))
        case.write(path, store) if case.write else formats.get(case.format).write_store(path, store)

    def read(path: Path) -> None:
        formats.count(path, case.format)
        formats.read(path, images=True, states=True)

    slow = case.format in ("minari", "lerobot")
    return Kind(f"{case.format}-{case.name.rpartition('.')[2]}", write, read, rate=0.4 if slow else 1.0)


def write_raw(path: Path) -> None:
    formats.get("robosuite").write_store(path, small_store(images=False))


def restore_bundle(folder: Path) -> None:
    meta = json.loads((folder / META).read_text())
    meta["sha256"] = digest({k: v for k, v in meta.items() if k != "sha256"})
    (folder / META).write_text(json.dumps(meta))


def restore_plan(folder: Path) -> None:
    meta = json.loads((folder / "plan_meta.json").read_text())
    meta["plan_sha256"] = digest({k: v for k, v in meta.items() if k != "plan_sha256"})
    (folder / "plan_meta.json").write_text(json.dumps(meta))


def write_state(path: Path) -> None:
    trainer = tiny_trainer()
    trainer.advance(1)
    checkpointing.save(path, trainer.state())


def read_ledger(path: Path) -> None:
    state = SweepState.from_events(read_events(path))
    state.ranking()
    state.unfinished()


def copied(source: Path) -> Callable[[Path], None]:
    return lambda path: shutil.copy(source, path) and None


def read_cluster(path: Path) -> None:
    check_file(path)
    machines_of(read_yaml(path, "a cluster file"))


KINDS = [
    *(format_kind(case) for case in CASES),
    Kind("robosuite", write_raw, lambda path: formats.read(path, states=True)),
    Kind("bundle", lambda path: pointmass_bundle().save(path), PolicyBundle.load, restore_bundle),
    Kind("plan", lambda path: save_plan(tiny_plan(), path), load_plan, restore_plan),
    Kind("state", write_state, checkpointing.load),
    Kind("ledger", copied(GOLDEN / "sweep" / "ledger.jsonl"), read_ledger, suffix=".jsonl"),
    Kind("sweep", copied(ROOT / "sweeps" / "quickstart.yaml"), load_sweep, suffix=".yaml"),
    Kind(
        "options", copied(ROOT / "sweeps" / "quickstart.yaml"), lambda path: _read_file(str(path), ""), suffix=".yaml"
    ),
    Kind("cluster", copied(ROOT / "cluster.yaml"), read_cluster, suffix=".yaml", rate=0.3),
]
NEEDS = {case.format: case.needs for case in CASES if case.needs}


def check(kind: Kind, folder: Path, first: int, count: int) -> None:
    pytest.importorskip(NEEDS.get(kind.name.partition("-")[0]) or "numpy")
    faults = run(kind.name, folder, first, count)
    text = "\n".join(f"{fault.number}: {fault.damage}: {fault.what}" for fault in faults[:5])
    assert not faults, f"{kind.name}: {len(faults)} of {count}:\n{text}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damage_is_read_or_refused(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path, 0, round(COPIES * kind.rate))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_much_damage_is_read_or_refused(kind: Kind, tmp_path: Path) -> None:
    total = sum(each.rate for each in KINDS)
    first, end = round(COPIES * kind.rate), round(ALL_COPIES * kind.rate / total)
    for start in range(first, end, 1000):
        check(kind, tmp_path / str(start), start, min(1000, end - start))


def test_a_reader_with_faults_is_found_out(tmp_path: Path) -> None:
    """What this test would miss, nothing would tell."""
    whole = b"whole" * 50

    def read(path: Path) -> None:
        content = path.read_bytes()
        if content != whole:
            np.zeros(content[0])[300]

    found = run(Kind("careless", lambda path: path.write_bytes(whole) and None, read), tmp_path, 0, 20)
    assert len(found) >= 15
    assert "IndexError" in found[0].what

    def crash(path: Path) -> None:
        if path.read_bytes() != whole:
            import os

            os.abort()

    found = run(Kind("crash", lambda path: path.write_bytes(whole) and None, crash), tmp_path, 0, 20)
    assert [fault.what for fault in found] == ["the process ended with -6"]

    def code(path: Path) -> None:
        if path.read_bytes() != whole:
            import os

            os.system("true")

    found = run(Kind("code", lambda path: path.write_bytes(whole) and None, code), tmp_path, 0, 3)
    assert "os.system" in found[0].what
