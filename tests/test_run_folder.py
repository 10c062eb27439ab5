"""Run folders: where things lie, and that those of release 0.1.0 are still read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raybc.bundle import META
from raybc.dashboard.detail import detail
from raybc.dashboard.view import RunView
from raybc.find_bundle import find_bundle
from raybc.metric import SUCCESS
from raybc.report.read import load_run
from raybc.rollout.faults import DIED, error_kind
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.results import summarise
from raybc.rows import EpisodeRow, episode_row, result_row, setting_of
from raybc.run_folder import BUNDLE_FILE, SweepFolder, TrainingFolder
from raybc.sweep.ledger import SweepState, read_events
from raybc.sweep.views import write_timing
from raybc.train.csv_rows import append_row
from raybc.train.evaluate import EVAL_COLUMNS
from raybc.types import EpisodeResult

GOLDEN = Path(__file__).parent / "golden/v0.1.0"
SWEEP, TRAIN, ROLLOUT = SweepFolder(GOLDEN / "sweep"), TrainingFolder(GOLDEN / "train"), GOLDEN / "rollout"


def test_it_imports_neither_torch_nor_ray() -> None:
    code = "import sys, raybc.run_folder, raybc.rows; print([m for m in ('torch', 'ray', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert BUNDLE_FILE == META


def test_everything_in_the_golden_folders_has_a_name() -> None:
    evaluation = EvaluationFolder(ROLLOUT)
    for path in (
        SWEEP.config, SWEEP.versions, SWEEP.ledger, SWEEP.study, SWEEP.trials_csv, SWEEP.results, SWEEP.episodes,
        SWEEP.progress, SWEEP.checkpoint(3, 0, 80) / BUNDLE_FILE, SWEEP.state(3, 120), SWEEP.member(2, 3).train_csv,
        TRAIN.flags, TRAIN.versions, TRAIN.train_csv, TRAIN.eval_csv, TRAIN.state, TRAIN.checkpoint(40),
        evaluation.request, evaluation.partial,
    ):  # fmt: skip
        assert path.exists(), path
    assert list(SWEEP.member_logs(3)) == ["0", "3"]
    assert sorted(TRAIN.checkpoints()) == [30, 40, 60]
    assert TRAIN.checkpoint(40, 2).name == "checkpoint_40_round_2"


def test_checkpoints_of_release_0_1_0_are_found() -> None:
    assert TRAIN.best_step() in TRAIN.checkpoints()
    assert find_bundle(TRAIN.path) == (TRAIN.checkpoint(60), None)
    assert find_bundle(TRAIN.path, "30") == (TRAIN.checkpoint(30), None)


def test_eval_csv_with_the_former_name_of_the_metric_is_read_and_continued(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    before = [name.replace("metric", "objective") for name in EVAL_COLUMNS]
    row = dict.fromkeys(before, "") | {"step": "10", "episodes": "4", "errors": "0"}
    row |= {"objective": "return", "eval/score": "-3.5"}
    folder.eval_csv.write_text(f"{','.join(before)}\n{','.join(row.values())}\n")
    metric, scores = folder.scores()
    assert (metric.name, scores) == ("return", {10: -3.5})
    values = {**dict.fromkeys(EVAL_COLUMNS), "step": 20, "metric": "return", "eval/score": -2.5}
    append_row(folder.eval_csv, EVAL_COLUMNS, list(values.values()))
    assert "objective" not in folder.eval_csv.read_text()
    assert folder.scores()[1] == {10: -3.5, 20: -2.5}


def test_a_sweep_of_release_0_1_0_is_read(tmp_path: Path) -> None:
    events = read_events(SWEEP.ledger)
    timings = [e["timing"] for e in events if e["event"] == "evaluation"]
    assert all("alone_seconds" in timing for timing in timings), "a key that is not written any more"
    state = SweepState.from_events(events)
    run, view = load_run(SWEEP.path), RunView(SWEEP.path)
    view.refresh()
    assert {trial.trial for trial in run.trials} <= set(state.trials), "it was killed before its tables were written"
    assert set(state.trials) == set(view.trials)
    for number, trial in state.trials.items():
        shown = detail(view, number)
        assert shown is not None
        assert len(shown["rows"]) == sum(len(e.rows) for e in trial.evaluations) + len(trial.final_rows)
    rows = [row for trial in state.trials.values() for e in trial.evaluations for row in e.rows]
    found = {(r["trial"], r["seed"], r["evaluation"], setting_of(r)): r["successes"] for r in rows}
    written = {(r["trial"], r["seed"], r["evaluation"], setting_of(r)): r["successes"] for r in run.results}
    assert written
    assert written.items() <= found.items()
    write_timing(SweepFolder(tmp_path), state, {})
    timing = json.loads((tmp_path / "timing.json").read_text())
    assert timing["train_seconds"] == pytest.approx(sum(t["train_seconds"] for t in timings), abs=1e-3)
    assert "packs" not in timing


def test_a_result_row_without_newer_keys_is_completed() -> None:
    line = json.loads(SWEEP.results.read_text().splitlines()[0])
    old = {k: v for k, v in line.items() if k not in ("temporal_ensemble", "errors_by_kind", "mean_steps_success")}
    assert result_row(old) == result_row(line) | {"mean_steps_success": None}
    with pytest.raises(ValueError, match="do not add up"):
        result_row(line | {"successes": 1 + line["successes"]})


def test_errors_carry_their_kind() -> None:
    crash = EpisodeResult(0, 0, "error", 0.0, 0, 0.0, message="the message may say anything", kind=DIED)
    old: EpisodeRow = episode_row(EpisodeResult(1, 1, "error", 0.0, 0, 0.0, message="ValueError: of release 0.1.0"))
    assert "error_kind" not in old
    assert error_kind(old) == "ValueError"
    assert summarise([episode_row(crash), old], SUCCESS)["errors_by_kind"] == {DIED: 1, "ValueError": 1}
