"""A resume needs no flags: the stored configuration is the default, and only what changes is named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raybc import cli
from raybc.cli import run_main
from raybc.files import read_json
from raybc.rollout.__main__ import Args
from raybc.rollout.__main__ import main as rollout
from raybc.rows import LedgerEvent, StartEvent
from raybc.run_folder import SweepFolder, TrainingFolder
from raybc.stored_flags import changed_flags, with_stored
from raybc.sweep.__main__ import main as sweep
from raybc.sweep.begin import is_complete
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState, read_events
from raybc.sweep.load import saved_sweep
from raybc.train.__main__ import main as train
from raybc.train.stored import Stored, latest_runs
from tests.helpers import ROOT

OPTIONS = (
    "--env_name=pointmass-scripted-low_dim", "--training_steps=20", "--action_chunking", "--horizon_length=4",
    "--hidden_width=16", "--hidden_depth=2", "--batch_size=16", "--eval_interval=0", "--device=cpu", "--threads=1",
)  # fmt: skip


def flags_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads(TrainingFolder(folder).flags.read_text()))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_training_is_extended_by_naming_what_changes(
    pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run_main(lambda: train([*OPTIONS, f"--dataset={pointmass_demos}", f"--out={out}"])) == 0
    before = flags_of(out)
    assert run_main(lambda: train(["--resume", "--out", str(out), "--training_steps", "30", "--threads=1"])) == 0
    after = flags_of(out)
    assert "resuming at step 20 of 30" in capsys.readouterr().out
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"training_steps", "run_id", "earlier_run_ids"}
    assert after["training_steps"] == 30
    assert run_main(lambda: train(["--resume", f"--out={out}", "--lr=0.5"])) == 2
    assert "lr: was 0.0003, is 0.5; use another --out" in capsys.readouterr().err
    assert flags_of(out) == after


def test_a_pack_keeps_its_seeds(pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pack"
    words = [*OPTIONS, f"--dataset={pointmass_demos}", f"--out={out}", "--seeds", "3", "1"]
    assert run_main(lambda: train(words)) == 0
    assert Stored.of(["--resume", f"--out={out}"]).seeds == (3, 1)
    assert run_main(lambda: train(["--resume", f"--out={out}", "--log_interval=7", "--threads=1"])) == 0
    assert "same run, log_interval: was 1000, is 7" in capsys.readouterr().out


def test_flags_beside_the_options_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(ROOT / "tests/golden/v0.1.0/train", out, symlinks=True)
    assert Stored.of(["--resume", "--out", str(out)]).options["training_steps"] == 120
    command = "raybc train --demos 12 --num_workers=2 --mlflow http://***@host --wandb offline --lr 3"
    TrainingFolder(out).run_args.write_text(json.dumps({"commands": ["raybc train --demos 5", command]}))
    assert Stored.of(["--resume", f"--out={out}"]).flags == ("--demos=12", "--num_workers=2", "--wandb=offline")
    for words in (["--resume"], [f"--out={out}"], ["--resume=False", f"--out={out}"], ["--resume", "--out=/nowhere"]):
        assert Stored.of(words) == Stored()
    assert Stored.of(["--resume=auto", f"--out={out}", "--overwrite"]) == Stored()


def test_some_run_is_never_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --out a run is found by its options; without any the latest ones are named."""
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: train(["--resume", "--log_interval", "500"])) == 2
    assert capsys.readouterr().err == "error: --resume: expected --out RUN, the folder of the run to continue\n"
    place = tmp_path / "runs/fbc/bc_training"
    for name in ("BC/a/sd000_x", "BC/b/pack_y/sd001_z"):
        (place / name).mkdir(parents=True)
        (place / name / "flags.json").write_text("{}")
    assert set(latest_runs(place)) == {place / "BC/a/sd000_x", place / "BC/b/pack_y"}
    assert run_main(lambda: train(["--resume", "--device=cpu"])) == 2
    assert "; the latest are runs/fbc/bc_training/BC/" in capsys.readouterr().err


# --- sweeps -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A sweep of release 0.1.0 that was stopped."""
    out = tmp_path / "sweep"
    shutil.copytree(ROOT / "tests/golden/v0.1.0/sweep", out, symlinks=True)
    return out


@pytest.fixture
def finished(stopped: Path) -> Path:
    """The same as if it had ended after the trials that had finished."""
    folder = SweepFolder(stopped)
    events = [json.loads(line) for line in folder.ledger.read_text().splitlines()]
    ended = {e["trial"] for e in events if e.get("status") in ("completed", "pruned") or e["event"] == "failed"}
    kept = [event for event in events if event.get("trial") in ended]
    whole = {"event": "stage", "name": "whole", "start": 0.0, "end": 1.0}
    folder.ledger.write_text("".join(json.dumps(event) + "\n" for event in [*kept, whole]))
    config = json.loads(folder.config.read_text())
    config["search"]["trials"] = len(ended)
    folder.config.write_text(json.dumps(config))
    for path in (folder.winner_json, folder.report):
        path.write_text("{}")
    return stopped


def test_a_sweep_with_nothing_to_do_changes_no_file(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(finished)
    for words in (["--resume", f"--out={finished}"], [str(finished), "--resume", "--max_concurrent", "1"]):
        assert run_main(lambda words=words: sweep(words)) == 0  # type: ignore[misc]
        assert "nothing to do: all" in capsys.readouterr().out
        assert digests(finished) == before


def test_what_is_left_of_a_sweep_is_found(finished: Path) -> None:
    folder = SweepFolder(finished)
    config = saved_sweep(read_json(folder.config), "")
    events = read_events(folder.ledger)

    def complete(config: SweepConfig = config, events: Sequence[LedgerEvent] = events) -> bool:
        return is_complete(config, folder, events, SweepState.from_events(events))

    assert complete()
    assert not complete(dataclasses.replace(config, final=dataclasses.replace(config.final, episodes=7)))
    assert not complete(dataclasses.replace(config, search=dataclasses.replace(config.search, trials=99)))
    assert not complete(events=events[:-1]), "it was stopped"
    begun: StartEvent = {"event": "start", "trial": 99, "params": {}, "origin": "defaults"}
    assert not complete(events=[begun, *events])
    folder.report.unlink()
    assert not complete()


def test_fewer_trials_than_there_are_change_nothing(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(stopped)
    assert run_main(lambda: sweep(["--resume", f"--out={stopped}", "--set", "search.trials=1"])) == 2
    assert "search.trials: expected at least" in capsys.readouterr().err
    assert digests(stopped) == before


def test_a_folder_is_no_sweep_file(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(lambda: sweep([str(stopped)])) == 2
    assert "expected a sweep file, got the folder of a sweep; continue it with --resume" in capsys.readouterr().err
    assert run_main(lambda: sweep([str(stopped), "--resume", "--out=elsewhere"])) == 2
    assert "got --out elsewhere as well" in capsys.readouterr().err


# --- rollouts and comparisons -----------------------------------------------------------------------------------------


def test_flags_that_are_not_the_default_are_kept() -> None:
    words = [
        "runs/a",
        "--videos=2",
        "--tasks",
        "x",
        "y",
        "--video_output_dir=films",
        "--out=o",
        "--workers=3",
        "--resume",
    ]
    args = cli.parse(Args, words, "raybc.rollout", "")
    kept = json.loads(json.dumps(changed_flags(args)))
    assert kept == {"bundle": "runs/a", "videos": 2, "tasks": ["x", "y"], "video_output_dir": "films"}
    again = with_stored(cli.parse(Args, ["--out=o", "--resume", "--videos=5"], "raybc.rollout", ""), kept | {"old": 1})
    assert again == dataclasses.replace(args, videos=5, workers="auto")


def test_a_rollout_is_resumed_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(lambda: rollout(["--resume", f"--out={tmp_path}"])) == 2
    assert "expected the policy to measure: raybc rollout RUN (or --resume --out FOLDER)" in capsys.readouterr().err
    (tmp_path / "rollout.json").write_text(json.dumps({"run_id": "x", "flags": {"bundle": "/nowhere/run"}}))
    assert run_main(lambda: rollout(["--resume", f"--out={tmp_path}"])) == 2
    assert capsys.readouterr().err.startswith("error: /nowhere/run: expected a policy bundle")
