"""`python -m raybc.train`: packs, rounds, checkpoints that are dropped, and the flags of the BC training guide."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from raybc.bundle import META, PolicyBundle
from raybc.config import RunConfig
from raybc.config.flat import aliases
from raybc.files import read_json
from raybc.train.__main__ import Args
from raybc.train.csv_rows import append_row
from raybc.train.member import MemberRun
from tests import guides
from tests.helpers import read_table, run_train, stop_training_at, tiny_config, tiny_data

ROOT = Path(__file__).parents[1]


def test_a_pack_of_seeds(
    ray_cpus: float,
    pointmass_demos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder for each seed, as if it had been trained alone; stopped in between, it goes on."""
    seeds = ("--seeds", "7", "3")
    out = tmp_path / "pack"
    with monkeypatch.context() as patch:
        stop_training_at(40, patch)
        assert run_train(pointmass_demos, out, *seeds) == 130
    assert run_train(pointmass_demos, out, *seeds, "--resume") == 0
    printed = capsys.readouterr().out
    assert "resuming at step 40 of 60" in printed
    assert "step 60: seed 7: success" in printed
    folders = sorted(p for p in out.iterdir() if p.is_dir())
    assert [p.name[:6] for p in folders] == ["sd003_", "sd007_"]
    assert run_train(pointmass_demos, tmp_path / "alone", "--seed=3") == 0
    alone, member = (p / "checkpoint_60" for p in (tmp_path / "alone", folders[0]))
    one, other = PolicyBundle.load(alone), PolicyBundle.load(member)
    assert one.run_id == other.run_id == folders[0].name[6:]
    for name, value in one.weights.items():
        torch.testing.assert_close(value, other.weights[name], rtol=1e-5, atol=1e-5)
    for folder in folders:
        assert [r["step"] for r in read_table(folder / "train.csv")] == ["10", "20", "30", "40", "50", "60"]
        assert [r["step"] for r in read_table(folder / "eval.csv")] == ["30", "60"]
        assert read_json(folder / "flags.json")["seed"] == int(folder.name[2:5])
    assert read_table(folders[0] / "train.csv")[0]["train/lr"] == "0.003"


def test_resume_needs_something_to_resume(
    pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """auto begins where nothing is; more steps extend what is there, bit for bit what they would have been."""
    out = tmp_path / "run"
    short, long = (("--eval_interval=0", f"--training_steps={steps}") for steps in (20, 40))
    assert run_train(pointmass_demos, out, *short, "--resume") == 2
    error = capsys.readouterr().err
    assert f"--resume: nothing to resume in {out}; leave --resume out" in error
    assert len(error.splitlines()) == 1
    assert run_train(pointmass_demos, out, *short, "--resume=auto") == 0
    assert "resuming" not in capsys.readouterr().out
    assert run_train(pointmass_demos, out, *long, "--resume=auto", "--log_interval=20") == 0
    printed = capsys.readouterr().out
    assert "same run, log_interval: was 10, is 20" in printed
    assert f"extending {out}: 20 steps become 40" in printed
    assert "resuming at step 20 of 40" in printed
    assert run_train(pointmass_demos, out, *short, "--resume") == 2
    assert "--resume continues the same run, but training_steps: was 40, is 20" in capsys.readouterr().err
    assert run_train(pointmass_demos, tmp_path / "whole", *long) == 0
    one, other = (PolicyBundle.load(f / "final_model") for f in (out, tmp_path / "whole"))
    assert (one.run_id, one.step) == (other.run_id, 40)
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name])


def test_without_evaluations_ray_is_not_started(
    pointmass_demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybc.cluster.session.ray_session", lambda *_, **__: pytest.fail("Ray was started"))
    assert run_train(pointmass_demos, tmp_path / "run", "--training_steps=10", "--eval_interval=0") == 0
    assert (tmp_path / "run" / "final_model").exists()
    assert not (tmp_path / "run" / "eval.csv").exists()


def test_rounds_and_kept_checkpoints(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["--num_rounds=3", "--epochs_per_round=1", "--save_interval=-1", "--eval_interval=1000", "--keep=1"]
    assert run_train(pointmass_demos, out, *flags, "--batch_size=256") == 0
    flags_json = read_json(out / "flags.json")
    total = flags_json["training_steps"]
    assert total % 3 == 0
    assert total != 60
    kept = {p.name for p in out.glob("checkpoint_*")}
    names = {2: f"checkpoint_{total * 2 // 3}_round_2", 3: f"checkpoint_{total}_round_3"}
    assert kept == {names[2], names[3]}, "one besides the latest, which is also the best"
    assert {(out / link).resolve().name for link in ("latest", "best", "final_model")} == {names[3]}
    assert {r["round"] for r in read_table(out / "train.csv")} <= {"1", "2", "3"}


def test_the_best_and_the_latest_are_kept(tmp_path: Path) -> None:
    run = MemberRun(tiny_config(keep=2), tiny_data(), tmp_path, "id")
    for step in (10, 20, 30, 40, 50, 60):
        run.bundle(step).mkdir(parents=True)
        (run.bundle(step) / META).touch()
    for step, success in ((10, 0.5), (20, 0.9), (30, 0.9), (40, 0.2)):
        append_row(tmp_path / "eval.csv", ("step", "eval/success"), (step, success))
    assert run.folder.best_step() == 30, "of equals the latest"
    run.drop_old(30, 60, lambda step: True)  # those from 40 on are still to be measured
    assert len(run.folder.checkpoints()) == 6
    run.drop_old(60, 60, lambda step: True)
    assert sorted(run.folder.checkpoints()) == [30, 40, 50, 60]
    run.point(60, finished=False)
    assert {p.name: p.resolve().name for p in tmp_path.iterdir() if p.is_symlink()} == {
        "latest": "checkpoint_60", "best": "checkpoint_30",
    }  # fmt: skip
    append_row(tmp_path / "eval.csv", ("step", "eval/success"), (40, 0.95))
    assert [r["step"] for r in read_table(tmp_path / "eval.csv")] == ["10", "20", "30", "40"]


#: The tables of the guide, flag by flag.
GUIDE: dict[str, Any] = {
    "run_group": "BC", "seed": 0, "env_name": "halfcheetah-medium-v2", "save_dir": "runs/fbc/",
    "training_steps": 1_000_000, "batch_size": 256, "log_interval": 1000, "eval_interval": 50_000,
    "save_interval": 100_000, "lr": 3e-4, "flow_steps": 10, "horizon_length": 5, "action_chunking": False,
    "use_fourier_features": False, "eval_episodes": 10, "video_episodes": 0, "video_frame_skip": 3,
    "dataset_proportion": 1.0, "dataset_replace_interval": 0, "ogbench_dataset_dir": "", "sparse": False,
    "encoder": "None",
}  # fmt: skip


def test_defaults_of_the_guide() -> None:
    defaults = {name: info.default for name, info in RunConfig().options().items()}
    assert {name: defaults[name] for name in GUIDE} == GUIDE
    assert {"device", "weight_decay"} <= defaults.keys()


def test_flags_of_the_documentation() -> None:
    """docs/training.md has every flag of the guide, no flag that is not there, and each has tests."""
    text = (ROOT / "docs/training.md").read_text()
    flags = {f.name for f in dataclasses.fields(Args)} | set(RunConfig().options()) | set(aliases(RunConfig))
    assert set(re.findall(r"`--([a-z_]+)`", text)) <= flags
    table = text.split("## The flags of the BC training guide")[1].split("## ")[0]
    named = set(re.findall(r"`--([a-z_]+)`", table))
    assert named == {*GUIDE, "device", "weight_decay"}
    guides.rows_are_covered(table, guides.TRAINING)
