"""A whole sweep on real Ray, Tune and Optuna: what it leaves, that it repeats, what it survives and what it refuses."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.metric import SUCCESS
from raybc.rollout.results import best_setting
from raybc.sweep.__main__ import main
from raybc.sweep.ledger import SweepState, read_events

SWEEP: dict[str, Any] = {
    "name": "tiny",
    "train": {
        "env_name": "pointmass-scripted-low_dim",
        "training_steps": 120,
        "batch_size": 64,
        "log_interval": 20,
        "lr": 3e-3,
        "action_chunking": True,
        "horizon_length": 8,
        "hidden_width": 32,
        "hidden_depth": 2,
        "device": "cpu",
    },
    "space": {
        "lr": {"low": 1e-3, "high": 1e-1, "log": True},
        "horizon_length": {"values": [4, 8]},
        "flow_steps": {"values": [1, 4]},
    },
    "seeds": [0, 3],
    "search": {"trials": 5, "max_concurrent": 1},
    "eval": {"episodes": 6, "evaluations": 3},
    "final": {"top": 2, "episodes": 10, "videos": 2},
    "resources": {"workers": 1, "worker_cpus": 0.2, "trial_cpus": 0.2},
}


@pytest.fixture(scope="module")
def sweep_file(pointmass_demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"), pointmass_demos)


def write_sweep(folder: Path, dataset: Path, **changes: Any) -> Path:
    sweep = json.loads(json.dumps(SWEEP))
    sweep["train"]["dataset"] = str(dataset)
    for key, value in changes.items():
        sweep[key] = {**sweep.get(key, {}), **value} if isinstance(value, dict) else value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def run(sweep: Path, out: Path, *flags: str) -> int:
    return run_main(lambda: main([str(sweep), "--out", str(out), *flags]))


@pytest.fixture(scope="module")
def finished(ray_cpus: float, sweep_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert run(sweep_file, out) == 0
    return out


def state_of(out: Path) -> SweepState:
    return SweepState.from_events(read_events(out / "ledger.jsonl"))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def check_complete(out: Path, trials: int) -> None:
    """What every finished run folder of SWEEP must be, whatever happened on the way."""
    events = read_events(out / "ledger.jsonl")
    starts = [e["trial"] for e in events if e["event"] == "start"]
    assert starts == list(range(trials)), "each trial is started once"
    evaluated = [(e["trial"], e["evaluation"]) for e in events if e["event"] == "evaluation"]
    assert len(evaluated) == len(set(evaluated)), "no evaluation stands twice"
    state = state_of(out)
    assert all(t.finished for t in state.trials.values())
    for trial in state.trials.values():
        assert [e.evaluation for e in trial.evaluations] == list(range(1, len(trial.evaluations) + 1))
        assert (trial.status == "completed") == (len(trial.evaluations) == 3)
    rows = rows_of(out)
    keys = [(r["run_id"], r["phase"], r["evaluation"], r["flow_steps"]) for r in rows]
    assert len(keys) == len(set(keys)), "no row is doubled"
    completed = sum(t.status == "completed" for t in state.trials.values())
    measured = sum(len(t.evaluations) for t in state.trials.values()) + min(2, completed)  # final.top is 2
    assert len(rows) == 4 * measured  # 2 seeds x 2 flow_steps
    with (out / "trials.csv").open() as handle:
        assert [int(r["trial"]) for r in csv.DictReader(handle)] == list(range(trials))
    study = optuna.load_study(study_name="tiny", storage=JournalStorage(JournalFileBackend(str(out / "study.journal"))))
    names = {"completed": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert [t.state.name for t in study.trials] == [names[state.trials[n].status] for n in range(trials)]
    for number, trial in enumerate(study.trials):
        assert trial.params == state.trials[number].params
        assert trial.intermediate_values == {e.evaluation: e.score for e in state.trials[number].evaluations}


def test_a_sweep_leaves_a_run_folder_that_explains_itself(finished: Path) -> None:
    check_complete(finished, 5)
    state = state_of(finished)
    assert state.trials[0].origin == "defaults"
    assert state.trials[0].params == {"lr": 3e-3, "horizon_length": 8}
    assert any(t.status == "pruned" for t in state.trials.values())
    config = json.loads((finished / "config.json").read_text())
    assert config["train"]["batch_size"] == 64
    assert config["prune"]["scheduler"] == "asha", "defaults are in the resolved configuration"
    versions = json.loads((finished / "versions.json").read_text())
    assert versions["simulator"] == {"pointmass": "1", "controller": "acceleration"}
    assert versions["ray"]
    progress = json.loads((finished / "progress.json").read_text())
    timing = json.loads((finished / "timing.json").read_text())
    assert progress["ended"] is not None
    assert progress["rollouts"]["episodes"] > 0
    for fact in ("cpus", "gpus", "threads", "workers", "max_steps", "data", "command"):
        assert progress[fact] == timing[fact], fact
    winner = json.loads((finished / "winner.json").read_text())
    best = state.ranking()[0]
    assert winner["trial"] == best.number
    assert winner["setting"]["flow_steps"] == best_setting(best.evaluations[-1].rows, SUCCESS).flow_steps
    bundle = PolicyBundle.load(finished / "winner")
    assert bundle.run_id == winner["run_id"]
    assert bundle.config.seed == winner["seed"]
    assert bundle.config.lr == best.params["lr"]
    videos = json.loads((finished / "videos.json").read_text())
    assert {v["outcome"] == "success" for v in videos} == {True, False}
    assert all((finished / v["file"]).stat().st_size > 1000 for v in videos)
    assert list((finished / "tensorboard").rglob("events.out.tfevents*"))
    assert (finished / "report.html").stat().st_size > 10_000
    assert "Winner" in (finished / "leaderboard.md").read_text()
    assert (finished / "trials/0000/seed_3/train.csv").read_text().splitlines()[-1].startswith("120,")


def test_search_and_final_starts_are_disjoint_and_counted(finished: Path) -> None:
    episodes = [json.loads(line) for line in (finished / "episodes.jsonl").read_text().splitlines()]
    count = {phase: sum(e["phase"] == phase for e in episodes) for phase in ("search", "final")}
    rows = rows_of(finished)
    assert count["search"] == sum(r["episodes"] for r in rows if r["phase"] == "search")
    assert count["final"] == 2 * 2 * 2 * 10  # top x seeds x flow_steps x starts
    # The splits' seeds are disjoint by construction (tests of EpisodeSpec); here: which split each phase ran.
    assert {e["index"] for e in episodes if e["phase"] == "search"} == set(range(6))


def test_the_same_sweep_gives_the_same_trials_and_rates(
    ray_cpus: float, sweep_file: Path, finished: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert run(sweep_file, again) == 0
    drop = ("eval_seconds",)
    first = [{k: v for k, v in r.items() if k not in drop} for r in rows_of(finished)]
    second = [{k: v for k, v in r.items() if k not in drop} for r in rows_of(again)]
    assert first == second
    assert (finished / "episodes.jsonl").read_text() == (again / "episodes.jsonl").read_text()
    assert (finished / "winner/policy.safetensors").read_bytes() == (again / "winner/policy.safetensors").read_bytes()


def test_a_finished_sweep_is_not_run_again_but_can_be_extended(
    ray_cpus: float, sweep_file: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    assert run(sweep_file, out) == 2
    assert "--resume" in capsys.readouterr().err
    before = (out / "results.jsonl").read_text()
    assert run(sweep_file, out, "--resume") == 0
    assert (out / "results.jsonl").read_text() == before
    assert run(sweep_file, out, "--resume", "--set", "search.trials=6") == 0
    check_complete_prefix(before, out)
    more = ("--set", "search.trials=6", "--set", "train.batch_size=32")
    assert run(sweep_file, out, "--resume", *more) == 2
    assert "train.batch_size: was 64, is 32" in capsys.readouterr().err


def check_complete_prefix(before: str, out: Path) -> None:
    state = state_of(out)
    assert len(state.trials) == 6
    assert all(t.finished for t in state.trials.values())
    old = {line for line in before.splitlines() if '"phase": "search"' in line}
    assert old <= set((out / "results.jsonl").read_text().splitlines())


def test_a_trial_that_fails_is_marked_with_its_reason_and_the_sweep_goes_on(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path
) -> None:
    sweep = write_sweep(
        tmp_path,
        pointmass_demos,
        space={"lr": {"values": [3e-3, 1e30]}, "horizon_length": {"values": [8]}},
        search={"trials": 3, "points_to_evaluate": [{"lr": 1e30}]},
        prune={"scheduler": "none"},
    )
    out = tmp_path / "out"
    assert run(sweep, out) == 0
    trials = state_of(out).trials
    assert trials[0].status == "completed"
    assert trials[1].status == "failed"
    assert "NonFiniteLoss" in trials[1].reason
    assert "lr 1e+30" in trials[1].reason
    assert json.loads((out / "winner.json").read_text())["trial"] != 1
    assert "NonFiniteLoss" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        ("gp", "median"),
        pytest.param("random", "none", marks=pytest.mark.slow),
        pytest.param("random", "median", marks=pytest.mark.slow),
        pytest.param("gp", "none", marks=pytest.mark.slow),
    ],
)
def test_other_schedulers_and_samplers(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, scheduler: str, sampler: str
) -> None:
    sweep = write_sweep(
        tmp_path, pointmass_demos, prune={"scheduler": scheduler}, search={"trials": 3, "sampler": sampler},
        final={"top": 1, "episodes": 5, "videos": 0},
    )  # fmt: skip
    out = tmp_path / "out"
    assert run(sweep, out) == 0
    statuses = [t.status for t in state_of(out).trials.values()]
    assert len(statuses) == 3
    if scheduler == "none":
        assert set(statuses) == {"completed"}


def bad(changes: dict[str, Any], *expected: str) -> Any:
    return pytest.param(changes, expected, id=str(changes)[:60])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        bad({"train": {"env_name": "pointmas-scripted-low_dim"}}, "pointmass-scripted-low_dim", "did you mean"),
        bad({"space": {"horizon": {"values": [4]}}}, "horizon", "'horizon_length'"),
        bad({"eval": {"episode": 5}}, "eval.episode", "'episodes'"),
        bad({"space": {"lr": {"low": 1e-2, "high": 1e-3}}}, "space.lr", "low < high"),
        bad({"space": {"execute_steps": {"values": [0, 6]}}}, "corner", "horizon_length=4", "execute_steps"),
        bad({"space": {"horizon_length": {"values": [8, 500]}}}, "horizon_length=500", "longest episode"),
        bad({"train": {"dataset": "/nowhere.hdf5"}}, "/nowhere.hdf5", "no such file"),
        bad({"train": {"env_name": "lift-scripted-low_dim"}}, "robot0_eef_pos", "missing"),
        bad({"search": {"max_concurrent": 400}}, "CPU", "--max-concurrent"),
        bad({"search": {"sampler": "cmaes"}}, "cmaes", "two ranges"),
        bad({"search": {"trials": 0}}, "search.trials", "at least 1"),
    ],
)
def test_bad_sweeps_are_refused_with_one_line(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any], expected: tuple[str, ...],
) -> None:  # fmt: skip
    if "lift" in str(changes) and importlib.util.find_spec("robosuite") is None:
        pytest.skip("robosuite is not installed")
    sweep = write_sweep(tmp_path, pointmass_demos, **changes)
    assert run(sweep, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert all(word in error for word in expected), error
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_damaged_dataset_is_refused(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.hdf5"
    damaged.write_bytes(pointmass_demos.read_bytes()[:30_000])
    assert run(write_sweep(tmp_path, damaged), tmp_path / "out") == 2
    assert "damaged or truncated" in capsys.readouterr().err


def test_help_is_readable_and_unknown_files_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--max-concurrent" in text
    assert "--resume" in text
    assert run(Path("sweeps/quickstrat.yaml"), tmp_path) == 2
    assert "quickstart.yaml" in capsys.readouterr().err


# --- killed and interrupted: real processes ---------------------------------------------------------------------------


def start(sweep: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "raybc.sweep", str(sweep), "--out", str(out), "--resume=auto", "--cpus", "2", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_events(out: Path, count: int, process: subprocess.Popen[str], timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        path = out / "ledger.jsonl"
        if path.exists() and len(read_events(path)) >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(f"no {count} events within {timeout} s")


@pytest.mark.timeout(600)
def test_a_stopped_and_killed_sweep_continues(sweep_file: Path, finished: Path, tmp_path: Path) -> None:
    """Ctrl-C, then kill -9 of the driver and all of its Ray: the end is that of an unbroken run."""
    out = tmp_path / "out"
    process = start(sweep_file, out)
    wait_for_events(out, 4, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's processes get it too
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert "--resume" in text.strip().splitlines()[-1]
    process = start(sweep_file, out)
    wait_for_events(out, 8, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process = start(sweep_file, out)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert "resuming:" in text
    check_complete(out, 5)
    # One trial at a time, so the search does not depend on which trial is faster.
    unbroken = {n: (t.params["horizon_length"], t.status) for n, t in state_of(finished).trials.items()}
    assert {n: (t.params["horizon_length"], t.status) for n, t in state_of(out).trials.items()} == unbroken


def test_a_second_sweep_on_the_same_folder_is_refused(sweep_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(sweep_file, out)
    try:
        wait_for_events(out, 1, process)
        second = start(sweep_file, out)
        text, _ = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "another process is writing" in text
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow  # races themselves: tests/test_race.py
def test_a_recipe_that_is_shown_to_be_worse_ends_early(ray_cpus: float, pointmass_demos: Path, tmp_path: Path) -> None:
    """The second recipe learns nothing; it races against the first on the same starts and is not measured on all."""
    sweep = write_sweep(
        tmp_path,
        pointmass_demos,
        train={"training_steps": 600, "batch_size": 128, "hidden_width": 64},
        space=None,
        search={"trials": 2, "points_to_evaluate": [{"lr": 1e-7}]},
        eval={"episodes": 60, "evaluations": 1},
        final={"top": 1, "episodes": 10, "videos": 0},
        prune={"scheduler": "none"},
    )
    text = yaml.safe_load(sweep.read_text()) | {"space": {"lr": {"low": 1e-7, "high": 1e-1, "log": True}}}
    sweep.write_text(yaml.safe_dump(text))
    assert run(sweep, tmp_path / "raced") == 0
    first, second = (state_of(tmp_path / "raced").trials[n] for n in (0, 1))
    assert (first.status, second.status) == ("completed", "pruned")
    assert second.evaluations[0].beaten.startswith("trial 0 at flow_steps=10 is better (e-value ")
    asked = {r["episodes"] for r in second.evaluations[0].rows}
    assert len(asked) == 1, "both seeds"
    assert asked <= {10, 20, 30, 40}
    assert {r["episodes"] for r in first.evaluations[0].rows} == {60}
    text["eval"]["race"] = False
    sweep.write_text(yaml.safe_dump(text))
    assert run(sweep, tmp_path / "whole") == 0
    whole = state_of(tmp_path / "whole").trials[1]
    assert whole.status == "completed"
    assert {r["episodes"] for r in whole.evaluations[0].rows} == {60}
    for short, full in zip(second.evaluations[0].rows, whole.evaluations[0].rows, strict=True):
        assert short["episode_list"] == full["episode_list"][: short["episodes"]], "a prefix of the same episodes"
