"""Recipes of a sweep that are alike train as one program, and each is what it is alone."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.run_folder import SweepFolder
from raybc.sweep.ledger import SweepState, read_events
from raybc.sweep.training import alike
from tests.helpers import read_table
from tests.test_sweep import check_complete, run, state_of, write_sweep

#: Five recipes at once: the defaults, two that share their program, one of another horizon, and one that must diverge.
SWEEP: dict[str, Any] = {
    "search": {
        "trials": 5,
        "pack": 5,
        "max_concurrent": 1,
        "points_to_evaluate": [{"lr": 1e-3}, {"horizon_length": 4}, {"lr": 1e18}, {"lr": 2e-3}],
    },
    "space": {
        "lr": {"low": 1e-3, "high": 1e18, "log": True},
        "horizon_length": {"values": [4, 8]},
        "flow_steps": {"values": [1, 4]},
    },
    "prune": {"scheduler": "none"},
}


@pytest.fixture(scope="module")
def packed(ray_cpus: float, pointmass_demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    assert run(write_sweep(folder, pointmass_demos, **SWEEP), folder / "out") == 0
    return folder / "out"


def weights_of(out: Path, trial: int, seed: int) -> dict[str, torch.Tensor]:
    steps = SweepFolder(out).member(trial, seed).checkpoints()
    return dict(PolicyBundle.load(steps[max(steps)]).weights)


def test_what_is_alike_is_one_program(packed: Path) -> None:
    check_complete(packed, 5)
    state = state_of(packed)
    assert [state.trials[n].status for n in range(5)] == ["completed", "completed", "completed", "failed", "completed"]
    spans = defaultdict(list)
    for n in (0, 1, 2, 4):
        for evaluation in state.trials[n].evaluations:
            spans[tuple(evaluation.timing["train"])].append(n)
    assert sorted(map(tuple, spans.values())) == sorted([(0, 1, 4)] * 3 + [(2,)] * 3)


def test_no_row_of_the_log_is_missing(packed: Path) -> None:
    for trial in (0, 1, 2, 4):
        for seed in (0, 3):
            rows = read_table(packed / "trials" / f"{trial:04d}" / f"seed_{seed}" / "train.csv")
            assert [int(r["step"]) for r in rows] == [20, 40, 60, 80, 100, 120]


def test_a_recipe_that_diverges_disturbs_no_other(packed: Path) -> None:
    state = state_of(packed)
    assert "seed 0 with lr 1e+18" in state.trials[3].reason
    assert "seed 3 with lr 1e+18" in state.trials[3].reason
    assert "0.001" not in state.trials[3].reason


@pytest.mark.slow
def test_packs_and_single_trials_are_the_same(packed: Path, pointmass_demos: Path, tmp_path: Path) -> None:
    """The weights differ in the last bits (products are summed in another order); the recipes are the same."""
    single = {**SWEEP, "search": {**SWEEP["search"], "pack": 1, "trials": 3}}
    assert run(write_sweep(tmp_path, pointmass_demos, **single), tmp_path / "out") == 0
    alone, together = state_of(tmp_path / "out"), state_of(packed)
    for n in range(3):
        assert alone.trials[n].params == together.trials[n].params
        for seed in (0, 3):
            torch.testing.assert_close(
                weights_of(tmp_path / "out", n, seed), weights_of(packed, n, seed), rtol=1e-4, atol=1e-4
            )
            bundles = [
                PolicyBundle.load(f / "trials" / f"{n:04d}" / f"seed_{seed}" / "checkpoint_120")
                for f in (packed, tmp_path / "out")
            ]
            assert bundles[0].run_id == bundles[1].run_id


def test_a_sweep_measures_no_alternative_to_packs(packed: Path) -> None:
    """benchmarks/train_throughput.py does; a sweep trains what it was asked to train."""
    timing = json.loads((packed / "timing.json").read_text())
    assert timing["train_seconds"] > 0
    assert "packs" not in timing
    events = read_events(packed / "ledger.jsonl")
    assert all("alone_seconds" not in e["timing"] for e in events if e["event"] == "evaluation")


@pytest.mark.slow
def test_packs_go_on_in_other_packs(packed: Path, pointmass_demos: Path, tmp_path: Path) -> None:
    """A ledger that ends between the reports of one evaluation: what is missing is measured, and nothing else."""
    sweep = write_sweep(tmp_path, pointmass_demos, **SWEEP)
    out = tmp_path / "out"
    events = read_events(packed / "ledger.jsonl")
    which = [(e["trial"], e["evaluation"]) if e["event"] == "evaluation" else () for e in events]
    kept = events[: which.index((1, 2)) + 1]
    left = {t.number: len(t.evaluations) for t in SweepState.from_events(kept).unfinished()}
    assert left == {0: 2, 1: 2, 2: 0, 4: 1}
    out.mkdir()
    (out / "config.json").write_text((packed / "config.json").read_text())
    (out / "ledger.jsonl").write_text("".join(json.dumps(e) + "\n" for e in kept))
    assert run(sweep, out, "--resume") == 0
    check_complete(out, 5)
    for n in (0, 1, 2, 4):
        before, after = (state_of(f).trials[n].evaluations for f in (packed, out))
        assert [e.score for e in before] == pytest.approx([e.score for e in after], abs=0.2)


def test_alike() -> None:
    run = RunConfig()
    assert alike(RunConfig.of(lr=1.0, seed=4, weight_decay=0.1)) == alike(run)
    assert alike(RunConfig.of(hidden_width=7)) != alike(run)
