"""A sweep whose environment crashes: errors count against recipes, no winner is declared, and the search ends early."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raybc.metric import SUCCESS
from raybc.report import tables
from raybc.report.read import load_run
from raybc.run_folder import SweepFolder, TrainingFolder
from raybc.sweep.final import write_winner
from raybc.sweep.health import measured_again, why_to_end
from raybc.sweep.ledger import SweepState
from raybc.sweep.live import LiveTable
from raybc.types import SampleSetting

FIRST = {"index": 0, "message": "RuntimeError: lost contact (at step 3)", "traceback": "Traceback ..."}


def row(trial: int, successes: int, valid: int, errors: int, phase: str = "search", **setting: Any) -> dict[str, Any]:
    found = {
        **asdict(SampleSetting(**{"flow_steps": 1, **setting})), "run_id": f"{trial:032x}", "trial": trial, "seed": 0,
        "phase": phase, "evaluation": 1, "step": 10, "episodes": valid, "successes": successes, "failures": 0,
        "timeouts": valid - successes, "errors": errors, "success_rate": successes / valid if valid else None,
        "mean_return": 0.0, "mean_max_reward": 0.0, "mean_steps_success": 9.0 if successes else None,
        "eval_seconds": 1.0, "retries": 0, "errors_by_kind": {},
        "episode_list": [[i, "error" if i < errors else "success", 3, 0.0] for i in range(valid + errors)],
    }  # fmt: skip
    return found | ({"first_error": FIRST, "messages": {"0": FIRST["message"]}} if errors else {})


def start(trial: int) -> dict[str, Any]:
    return {"event": "start", "trial": trial, "params": {"lr": 1e-3}, "origin": "sampler"}


def measured(trial: int, *rows: dict[str, Any], score: float = 0.0) -> list[Any]:
    timing = {"train": [0.0, 1.0], "rollout": [1.0, 2.0], "train_seconds": 1.0}
    return [
        start(trial),
        {"event": "evaluation", "trial": trial, "evaluation": 1, "step": 10, "status": "completed", "score": score,
         "rows": list(rows), "timing": timing},
    ]  # fmt: skip


def state_of(*events: Any) -> SweepState:
    return SweepState.from_events(events)


# Ranking


def test_trials_are_ranked_with_errors_as_failures() -> None:
    """Also those of earlier releases, whose scores left errors out."""
    state = state_of(
        *measured(0, row(0, 6, 6, 14), score=1.0),
        *measured(1, row(1, 10, 20, 0), score=0.5),
        *measured(2, row(2, 19, 19, 1), score=1.0),
    )
    assert [trial.number for trial in state.ranking()] == [2, 1, 0]
    assert [trial.errors for trial in state.trials.values()] == [14, 0, 1]


def test_the_chosen_setting_is_not_the_one_that_crashes() -> None:
    from raybc.rollout.results import best_setting

    rows: Any = [row(0, 6, 6, 14, flow_steps=1), row(0, 12, 20, 0, flow_steps=5)]
    assert best_setting(rows, SUCCESS).flow_steps == 5


def test_a_checkpoint_is_not_the_best_for_two_of_twenty(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.eval_csv.write_text(
        "step,eval/success,wilson_low,wilson_high,eval/return,eval/length,episodes,errors\n"
        "100,0.6,0,1,0,9,20,0\n200,1.0,0,1,0,9,2,18\n300,0.5,0,1,0,9,20,0\n"
    )
    for step in (100, 200, 300):
        folder.checkpoint(step).mkdir()
        (folder.checkpoint(step) / "bundle.json").touch()
    assert folder.best_step() == 100
    folder.eval_csv.write_text("step,eval/success\n100,0.6\n200,0.7\n")
    assert folder.best_step() == 200, "files without these columns are read"


# The winner


def sweep_folder(tmp_path: Path, state: SweepState) -> SweepFolder:
    folder = SweepFolder(tmp_path)
    folder.config.write_text(json.dumps({"name": "crash", "train": {"env_name": "mine:crash"}}))
    lines = ["trial,status,score,step,evaluations,origin,reason,errors,train_seconds,rollout_seconds,params.lr"]
    results = []
    for trial in state.trials.values():
        rows = [r for e in trial.evaluations for r in e.rows] + trial.final_rows
        results += [json.dumps({k: v for k, v in r.items() if k not in ("episode_list", "messages")}) for r in rows]
        lines.append(f"{trial.number},{trial.status},{trial.score},10,1,sampler,,{trial.errors},1,1,0.001")
        bundle = folder.checkpoint(trial.number, 0, 10)
        bundle.mkdir(parents=True)
        (bundle / "bundle.json").write_text("{}")
    folder.trials_csv.write_text("\n".join(lines) + "\n")
    folder.results.write_text("\n".join(results) + "\n")
    return folder


@pytest.mark.parametrize(("errors", "declared"), [(0, True), (1, True), (2, False), (14, False), (20, False)])
def test_no_winner_is_declared_above_five_percent_errors(tmp_path: Path, errors: int, declared: bool) -> None:
    final: Any = {"event": "final", "trial": 0, "rows": [row(0, 20 - errors, 20 - errors, errors, "final")]}
    state = state_of(*measured(0, row(0, 12, 12, 0), score=1.0), *measured(1, row(1, 3, 12, 0), score=0.25), final)
    folder = sweep_folder(tmp_path, state)
    folder.winner.mkdir()
    folder.winner_json.write_text("{}")
    winner = write_winner(folder, state)
    assert (winner is not None) is declared
    assert folder.winner_json.exists() is declared
    assert folder.winner.exists() is declared
    run = load_run(tmp_path)
    line = tables.winner_line(run, tables.leaderboard(run))
    if not declared:
        assert line.startswith(f"No winner: of trial 0 on final starts, {errors} of 20 episodes ended in errors")
        assert "at most 5.0 % may" in line
        if errors < 20:
            low = 100 * (20 - errors) / 20
            assert f"{low:.1f}-100.0 % if errors count as failures or as successes" in line
            assert "Without them its success is 100.0 %" in line
    elif errors:
        assert "1 error not counted, 95.0-100.0 % if errors count as failures or as successes" in line
    else:
        assert "error" not in line


# The search


def test_the_search_ends_when_most_episodes_of_two_trials_are_errors() -> None:
    bad, worse = measured(0, row(0, 3, 3, 9)), measured(1, row(1, 0, 0, 12))
    assert why_to_end(state_of(*bad), trials=6) == "", "one recipe may make a simulator diverge"
    assert "9 of 12 episodes of the first 1 trials" in why_to_end(state_of(*bad), trials=1)
    why = why_to_end(state_of(*bad, *worse), trials=6)
    assert "21 of 24 episodes of the first 2 trials ended in errors: RuntimeError: lost contact" in why
    failed: Any = {"event": "failed", "trial": 1, "reason": "AllEpisodesFailed: lost contact", "errors": 12}
    assert "21 of 24" in why_to_end(state_of(*bad, start(1), failed), trials=6)
    died: Any = {"event": "failed", "trial": 1, "reason": "its process died"}
    assert why_to_end(state_of(*bad, start(1), died), trials=6) == ""
    fine = measured(2, row(2, 6, 10, 2))
    assert why_to_end(state_of(*fine, *bad, *worse), trials=6) == "", "the environment works"
    assert why_to_end(state_of(), trials=6) == ""


def test_a_resumed_sweep_measures_lost_trials_again() -> None:
    failed: Any = {"event": "failed", "trial": 2, "reason": "AllEpisodesFailed: lost contact", "errors": 12}
    state = state_of(*measured(0, row(0, 3, 3, 9)), *measured(1, row(1, 9, 10, 2)), start(2), failed)
    events = measured_again(state)
    assert [event["trial"] for event in events] == [0, 2]
    for event in events:
        state.apply(event)
    assert [trial.number for trial in state.unfinished()] == [0, 2]
    assert state.trials[0].evaluations == []
    assert state.trials[0].params == {"lr": 1e-3}
    assert measured_again(state) == []


# What people read


def test_the_console_shows_the_first_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    state = state_of(start(0), start(1))
    out = io.StringIO()
    live = LiveTable(Console(file=out, width=200), state, trials=2, evaluations=1)
    for trial in (0, 1):
        state.apply(measured(trial, {**row(trial, 3, 6, 6), "truncated": 2})[1])
        live.refresh()
    text = out.getvalue()
    assert text.count("first error, at start 0: RuntimeError: lost contact (at step 3)") == 1
    assert text.count("Traceback ...") == 1
    assert text.count("2 of 6 episodes were truncated by the simulator before the step limit") == 1
    assert text.count("6 of 12 episodes ended in errors; 25.0-75.0 % if errors count as failures or as successes") == 2
    table = Console(file=io.StringIO(), width=120, record=True)
    table.print(live._render())
    assert "errors" in table.export_text().splitlines()[1]


def test_tables_and_pages_have_errors_and_messages(tmp_path: Path) -> None:
    from raybc.report.html import write_report
    from raybc.sweep.load import sweep_from_mapping
    from raybc.sweep.views import write_tables

    state = state_of(*measured(0, row(0, 3, 6, 6, flow_steps=1)))
    folder = sweep_folder(tmp_path, state)
    config = sweep_from_mapping({"name": "crash", "space": {"lr": {"low": 1e-4, "high": 1e-2}}}, "crash")
    write_tables(folder, config, state)
    assert folder.trials_csv.read_text().splitlines()[1].split(",")[7] == "6"
    first = json.loads(folder.episodes.read_text().splitlines()[0])
    assert (first["message"], first["traceback"]) == (FIRST["message"], FIRST["traceback"])
    assert "message" not in json.loads(folder.episodes.read_text().splitlines()[-1])
    assert "messages" not in json.loads(folder.results.read_text().splitlines()[0])
    page = write_report(tmp_path).read_text()
    assert "The first, at start 0: RuntimeError: lost contact (at step 3)" in page
