"""Training with a sampling plan: what is drawn, what it is called, what is left behind."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.data.normalize import Normalizer
from raybc.data.plan.build import build_plan
from raybc.data.plan.config import PlanConfig
from raybc.data.plan.exposure import exposure, plan_lr_scale
from raybc.data.plan.files import load_plan, save_plan
from raybc.data.plan.plan import SamplingPlan
from raybc.files import read_json
from raybc.plan import main as plan_command
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.types import UserError
from tests import guides
from tests.helpers import CPU, run_train, stop_training_at, tiny_config, tiny_data, tiny_store, tiny_trainer

ROOT = Path(__file__).parents[1]


def some_data() -> TrainingData:
    return tiny_data(tiny_store(lengths=(20, 31, 9, 25, 14, 40)))


def tiny_plan(folder: Path, **changes: Any) -> tuple[Path, SamplingPlan]:
    data, config = some_data(), tiny_config()
    changes = {"horizon_length": config.chunk_length, "batch_size": config.batch_size, "stride_S": 1} | changes
    plan = build_plan(data.store, PlanConfig(**changes), "tiny", data.fingerprint)
    save_plan(plan, folder)
    return folder, plan


def trainer_of(path: Path, seeds: tuple[int, ...] = (0,), **changes: Any) -> PackTrainer:
    return tiny_trainer(seeds, some_data(), sampling_plan_path=str(path), **changes)


def test_only_anchors_are_drawn_as_often_as_their_weights_say(tmp_path: Path) -> None:
    path, plan = tiny_plan(tmp_path / "plan", num_episodes_keep=2, stage_balance="inv_freq", inv_freq_power=2.0)
    trainer = trainer_of(path, (0, 1))
    steps = 400
    seen = torch.cat([trainer.windows.starts[trainer.draws.at(s).indices_MB].flatten() for s in range(steps)])
    counts = np.bincount(np.searchsorted(plan.anchors_P, seen.numpy()), minlength=len(plan.anchors_P))
    assert set(seen.tolist()) <= set(plan.anchors_P.tolist())
    expected = plan.weights_P / plan.weights_P.sum() * len(seen)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = len(expected) - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)  # five standard deviations


def test_without_replacement_every_anchor_comes_once_an_epoch(tmp_path: Path) -> None:
    path, plan = tiny_plan(tmp_path / "plan")
    trainer = trainer_of(path, sampler_replacement_override="False")
    batch, count = trainer.config.batch_size, len(plan.anchors_P)
    picks = torch.cat([trainer.draws.at(s).indices_MB[0] for s in range(3 * count // batch + 1)])[: 3 * count]
    assert all(sorted(epoch.tolist()) == list(range(count)) for epoch in picks.view(3, count))


def test_noise_and_times_are_those_without_a_plan(tmp_path: Path) -> None:
    path, _ = tiny_plan(tmp_path / "plan")
    with_plan, without = trainer_of(path).draws.at(5), tiny_trainer(data=some_data()).draws.at(5)
    assert list(with_plan.draws) == list(without.draws) == ["noise", "time"]
    assert all(torch.equal(with_plan.draws[name], value) for name, value in without.draws.items())
    assert not torch.equal(with_plan.indices_MB, without.indices_MB)


def test_packs_and_resume(tmp_path: Path) -> None:
    path, _ = tiny_plan(tmp_path / "plan")
    pack, alone = trainer_of(path, (3, 5), training_steps=60), trainer_of(path, (5,), training_steps=60)
    pack.advance(60)
    alone.advance(40)
    alone.save_state(tmp_path / "state")
    again = trainer_of(path, (5,), training_steps=60)
    again.load_state(tmp_path / "state")
    alone.advance(60)
    again.advance(60)
    for name, value in alone.bundle(0).weights.items():
        assert torch.equal(value, again.bundle(0).weights[name])
        torch.testing.assert_close(value, pack.bundle(1).weights[name], rtol=1e-5, atol=1e-5)


def test_seed_override_draws_otherwise(tmp_path: Path) -> None:
    path, plan = tiny_plan(tmp_path / "plan", sampler_seed=4)
    first = trainer_of(path).draws.at(0).indices_MB
    assert torch.equal(first, trainer_of(path, sampler_seed_override=4).draws.at(0).indices_MB)
    assert not torch.equal(first, trainer_of(path, sampler_seed_override=5).draws.at(0).indices_MB)
    assert plan.config.sampler_seed == 4


@pytest.mark.parametrize("mode", ["all", "anchors", "episodes", "episodes_valid"])
def test_statistics_of_a_subset(mode: str, tmp_path: Path) -> None:
    path, plan = tiny_plan(tmp_path / "plan", num_episodes_keep=1, stride_S=3, batch_size=2, min_anchors=2)
    trainer = trainer_of(path, plan_subset_mode=mode, batch_size=2)
    store = trainer.data.store
    if mode == "all":
        starts, ends = store.episode_starts, store.episode_ends
        rows = np.concatenate([np.arange(starts[e], ends[e]) for e in store.split("train")])
    else:
        rows = plan.fit_rows(mode)  # type: ignore[arg-type]
    expected = Normalizer.fit(store.actions_NA[rows], trainer.config.normalization)
    np.testing.assert_array_equal(trainer.prepared.action_normalizer.offset, expected.offset)
    np.testing.assert_array_equal(trainer.prepared.action_normalizer.scale, expected.scale)


def test_the_learning_rate_knows_how_often_windows_come_back(tmp_path: Path) -> None:
    path, plan = tiny_plan(tmp_path / "plan", num_episodes_keep=1, batch_size=2, min_anchors=2)
    flags = {"plan_aware_lr_scale": True, "plan_target_effective_repeat": 3.0, "batch_size": 2, "training_steps": 500}
    trainer = trainer_of(path, **flags, lr_schedule="cosine")
    scale = plan_lr_scale(exposure(plan.weights_P, 1000, True).repeat_eff, 3.0, 0.5, 0.05)
    assert 0.05 < scale < 1
    plain = trainer_of(path, batch_size=2, training_steps=500, lr_schedule="cosine")
    for step in (0, 100, 499):
        trainer.step = plain.step = step
        assert trainer.rates == pytest.approx([rate * scale for rate in plain.rates])


def test_the_plan_is_a_part_of_the_run(tmp_path: Path) -> None:
    """Another plan is another run, the same plan elsewhere is not."""
    fingerprint = some_data().fingerprint
    path, plan = tiny_plan(tmp_path / "plan")
    copied, _ = tiny_plan(tmp_path / "copied")
    other, _ = tiny_plan(tmp_path / "other", plan_seed=9, stride_S=2, min_anchors=2, batch_size=2)
    trainers = [trainer_of(p, batch_size=2) for p in (path, copied, other)]
    ids = [t.members[0].run_id(fingerprint) for t in trainers]
    assert ids[0] == ids[1] != ids[2]
    assert trainers[0].members[0].sampling_plan_sha256 == plan.plan_sha256
    with pytest.raises(UserError, match=r"expected the plan abc, got .*; start a new run"):
        trainer_of(path, sampling_plan_sha256="abc")


def test_the_table_of_the_guide() -> None:
    """docs/plans.md: the flags of a training are there with their defaults, and so are the tests."""
    text = (ROOT / "docs/plans.md").read_text()
    table = text.split("## The table of the guide: training")[1].split("## ")[0]
    named = {f.replace("-", "_") for f in re.findall(r"`--([\w-]+)`", table)}
    fields = set(RunConfig().options())
    of_plans = {f for f in fields if f.startswith(("plan_", "sampler_", "sampling_", "budget_"))}
    assert of_plans - {"sampling_plan_sha256"} <= named
    assert named - fields == {"budget_aware_schedule", "freeze_mode", "resume"}
    guides.rows_are_covered(table, guides.PLAN_TRAINING)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_aware_lr_scale": True}, "plan_aware_lr_scale: has no effect without sampling_plan_path"),
        ({"plan_subset_mode": "anchors"}, "plan_subset_mode: has no effect without sampling_plan_path"),
        ({"sampler_seed_override": -2}, "sampler_seed_override: expected at least -1, got -2"),
        ({"plan_lr_min_scale": 0.0}, "plan_lr_min_scale: expected more than 0 and at most 1, got 0.0"),
        ({"plan_target_effective_repeat": 0.0}, "plan_target_effective_repeat: expected a finite number above 0"),
        ({"top_percent": 0.0}, "top_percent: expected more than 0 and at most 100, got 0"),
        ({"sampling_plan_path": "x", "only_successful": True}, "only_successful: expected False with sampling_plan"),
        (
            {"sampling_plan_path": "x", "dataset_proportion": 0.5},
            "dataset_proportion: expected 1.0 with sampling_plan",
        ),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_config(**changes).validate("run")


def test_plans_of_other_trainings_are_refused(tmp_path: Path) -> None:
    path, _ = tiny_plan(tmp_path / "plan", horizon_length=2)
    with pytest.raises(UserError, match="horizon"):
        trainer_of(path)
    data = some_data()
    other = dataclasses.replace(data.store, actions_NA=data.store.actions_NA + 1)
    moved = dataclasses.replace(data, store=other, fingerprint=other.fingerprint())
    path, _ = tiny_plan(tmp_path / "other")
    config = tiny_config(sampling_plan_path=str(path))
    with pytest.raises(UserError, match=r"Sampling plan (dataset_fingerprint|repo_id) mismatch"):
        PackTrainer(with_seeds(config, (0,)), moved, CPU)


@pytest.mark.slow
def test_the_command(
    ray_cpus: float,
    pointmass_demos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From build to a run folder; stopped in between, it goes on bit for bit, and not with another plan."""
    build = [
        "build",
        "--dataset",
        str(pointmass_demos),
        "--horizon-length=8",
        "--batch-size=64",
        "--num-episodes-keep=5",
    ]
    assert plan_command([*build, "--out-dir", str(tmp_path / "plan")]) == 0
    flags = (f"--sampling-plan-path={tmp_path / 'plan'}", "--plan-subset-mode=episodes")
    assert run_train(pointmass_demos, tmp_path / "whole", *flags) == 0
    with monkeypatch.context() as patch:
        stop_training_at(40, patch)
        assert run_train(pointmass_demos, tmp_path / "out", *flags) == 130
    assert run_train(pointmass_demos, tmp_path / "out", *flags, "--resume") == 0
    bundles = [PolicyBundle.load(tmp_path / name / "final_model") for name in ("whole", "out")]
    assert all(torch.equal(v, bundles[1].weights[k]) for k, v in bundles[0].weights.items())
    summary = read_json(tmp_path / "out" / "run_summary.json")
    copied = load_plan(tmp_path / "out" / "sampling_plan")
    assert summary["plan_sha256"] == copied.plan_sha256 == bundles[0].config.sampling_plan_sha256
    expected = exposure(copied.weights_P, 60 * 64, True)
    for name in ("ess", "expected_unique", "expected_coverage", "avg_repeat"):
        assert summary[name] == pytest.approx(getattr(expected, name))
    assert plan_command([*build, "--plan-seed=7", "--out-dir", str(tmp_path / "plan"), "--overwrite"]) == 0
    assert run_train(pointmass_demos, tmp_path / "out", *flags, "--resume") == 2
    error = capsys.readouterr().err
    assert "expected the plan" in error
    assert "start a new run, or rebuild the plan with its old options" in error
