"""Sweeps without a simulator: recipes are trained, pruned and ranked by the error on held-out episodes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

from raybc.bundle import PolicyBundle
from raybc.dashboard.view import RunView
from raybc.data.load import read_for
from raybc.export.card import evidence_for
from raybc.files import write_json
from raybc.inference.agent import Agent
from raybc.inference.offline import offline_error
from raybc.report.read import load_run
from raybc.rollout.folder import EvaluationFolder
from raybc.rows import epoch_rows
from raybc.run_folder import BUNDLE_FILE, SweepFolder
from raybc.sweep.begin import Launch, holding_out, with_metric
from raybc.sweep.config import SweepConfig
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.pack import run_pack
from raybc.sweep.run import run_sweep
from raybc.sweep.space import check_corners, metric_of, race_comparisons, recipe, sample_settings
from raybc.sweep.training import Job
from raybc.sweep.trial import TrialContext
from raybc.sweep.tune import no_rollouts
from raybc.train.data import held_out_episodes
from raybc.types import SampleSetting, UserError

DATA = Path(__file__).parent / "golden/v0.1.0/demos.hdf5"


def config(**changes: Any) -> SweepConfig:
    plain = {
        "name": "none", "seeds": [0, 1],
        "train": {"env_name": "none", "dataset": str(DATA), "training_steps": 120, "batch_size": 32, "hidden_width": 16,
                  "hidden_depth": 1, "device": "cpu", "action_chunking": True, "horizon_length": 4},
        "space": {"lr": {"values": [1e-5, 1e-2]}, "flow_steps": {"values": [1, 4]}},
        "search": {"trials": 3, "max_concurrent": 1}, "eval": {"evaluations": 2},
    }  # fmt: skip
    return sweep_from_mapping(plain | changes, "none.yaml")


def test_what_is_compared() -> None:
    plan = config()
    metric = metric_of(plan)
    assert (metric.name, metric.direction, metric.has_success) == ("valid_cosine", "minimize", False)
    assert check_corners(plan) == 4
    assert race_comparisons(plan, metric) == 0
    with pytest.raises(UserError, match=r"metric: expected one of valid_error, .*, since there is no environment"):
        metric_of(config(metric="return"))


def test_episodes_are_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert holding_out(config()) == config(), "these data have a split `valid`"
    shutil.copy(DATA, tmp_path / "plain.hdf5")
    with h5py.File(tmp_path / "plain.hdf5", "a") as file:
        del file["mask"]
    plan = config()
    held = holding_out(dataclasses.replace(plan, train=plan.train.changed(dataset=str(tmp_path / "plain.hdf5"))))
    assert held.train.holdout_seed == 0
    assert "are held out (train.holdout_seed=0)" in capsys.readouterr().out
    assert holding_out(held) == held


def test_a_trial_is_scored_by_the_held_out_error_and_rolls_nothing_out(tmp_path: Path) -> None:
    plan = holding_out(config())
    store = read_for(DATA, "")
    context = TrialContext(
        folder=SweepFolder(tmp_path), train=plan.train, task="", dataset=str(DATA), fingerprint=store.fingerprint(),
        obs_keys=tuple(sorted(store.obs)), environment={}, seeds=(0, 1), steps=(60, 120),
        settings=tuple(sample_settings(plan)), episodes=10, race_comparisons=0, metric=metric_of(plan), threads=1,
    )  # fmt: skip
    found = []
    jobs = [Job(0, recipe(plan, {"lr": 1e-2}).changed(action_metrics=2))]
    run_pack(context, jobs, no_rollouts, lambda _, e: found.append(e) or True, lambda *_: None, lambda *_: {})  # type: ignore[func-returns-value]
    assert [e.evaluation for e in found] == [1, 2]
    assert 0 < found[1].score < found[0].score
    rows = found[1].rows
    assert {(r["seed"], r["flow_steps"]) for r in rows} == {(0, 1), (0, 4), (1, 1), (1, 4)}
    assert all(r["score"] > 0 and r["episodes"] == 0 and r["success_rate"] is None for r in rows)
    mean = {flow: sum(r["score"] for r in rows if r["flow_steps"] == flow) / 2 for flow in (1, 4)}
    assert found[1].score == pytest.approx(min(mean.values()))
    for seed in (0, 1):
        member = context.folder.member(0, seed)
        epochs = epoch_rows(member.metrics_jsonl)
        assert epochs[-1]["step"] == 120
        assert epochs[-1]["sample_mse"] < epochs[0]["sample_mse"]
        assert (member.best_mse / BUNDLE_FILE).is_file()


def test_a_trial_is_scored_by_the_metric_of_the_sweep(tmp_path: Path) -> None:
    plan = config(metric="valid_cosine")
    store = read_for(DATA, "")
    context = TrialContext(
        folder=SweepFolder(tmp_path), train=plan.train, task="", dataset=str(DATA), fingerprint=store.fingerprint(),
        obs_keys=tuple(sorted(store.obs)), environment={}, seeds=(0,), steps=(20,), settings=(SampleSetting(4),),
        episodes=10, race_comparisons=0, metric=metric_of(plan), threads=1,
    )  # fmt: skip
    found = []
    run = recipe(plan, {"lr": 1e-2}).changed(training_steps=20)
    run_pack(context, [Job(0, run)], no_rollouts, lambda _, e: found.append(e) or True, lambda *_: None, lambda *_: {})  # type: ignore[func-returns-value]
    agent = Agent(PolicyBundle.load(context.folder.checkpoint(0, 0, 20)))
    wanted = offline_error(agent, store, held_out_episodes(run, store), SampleSetting(4), metric="valid_cosine")
    assert found[0].score == wanted.score == wanted.measures["cosine"]
    assert 0 < wanted.score < 1 < 10 * wanted.error


def test_a_resumed_sweep_keeps_its_metric(tmp_path: Path) -> None:
    """Also that of releases whose default was another one."""
    place = SweepFolder(tmp_path)
    write_json(place.config, config(metric="valid_first_step").to_dict())
    assert with_metric(config(), Launch(place, "True"), None)[1].name == "valid_first_step"
    assert with_metric(config(), Launch(place, "False", overwrite=True), None)[1].name == "valid_cosine"


@pytest.mark.slow
def test_a_whole_sweep_without_a_simulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = SweepFolder(run_sweep(config(), Launch(SweepFolder(tmp_path / "run"))))
    said = capsys.readouterr().out
    assert "0 simulators" in said
    assert "the space has only 2 different recipes" in said
    assert "Winner: trial 1 at flow_steps=" in said or "Winner: trial 0 at flow_steps=" in said
    assert said.count("No success rate was measured: there is no environment.") >= 2
    winner = json.loads(place.winner_json.read_text())
    assert winner["params"] == {"lr": 1e-2}
    assert winner["rule"].startswith("lowest held-out cosine distance at the last evaluation")
    for page in (place.report.read_text(), place.leaderboard.read_text()):
        assert "No success rate was measured" in page
    report = place.report.read_text()
    assert " · data <code>" in report
    for nothing in ("Episodes counted", ">Errors<", ">Episodes<", "Step limit", "task <code>none"):
        assert nothing not in report, "what is of rollouts is left out"
    run = load_run(place.path)
    assert run.metric.name == "valid_cosine"
    view = RunView(place.path)
    view.refresh()
    assert view.since(-1, -1)["run"]["metric"]["episodes"] is False
    bundle = PolicyBundle.load(place.winner)
    setting = SampleSetting(**winner["setting"])
    card = evidence_for(place.winner, bundle, setting, EvaluationFolder(tmp_path / "nothing"))
    assert "No success rate was measured" in card.text
    assert card.metric.name == "valid_cosine"
    again = run_sweep(dataclasses.replace(config(), search=dataclasses.replace(config().search, trials=5)),
                      Launch(place, "True"))  # fmt: skip
    assert again == place.path
