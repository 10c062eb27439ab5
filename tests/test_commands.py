"""`raybc.train` and `raybc.rollout` as a user types them (in this process, on the session's Ray); the README's tree."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raybc import cli
from raybc.bundle import WEIGHTS, PolicyBundle
from raybc.cli import run_main
from raybc.files import read_json
from raybc.rollout.__main__ import main as rollout
from raybc.statistics import halfwidth_reached, wilson_interval
from raybc.sweep.__main__ import Args as SweepArgs
from raybc.train.__main__ import main as train
from tests.helpers import read_table, run_train, stop_training_at

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(ray_cpus: float, pointmass_demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "run"
    assert run_train(pointmass_demos, out, "--video_episodes=1") == 0
    return out


def test_train_leaves_a_run_folder(run: Path) -> None:
    assert [r["step"] for r in read_table(run / "train.csv")] == ["10", "20", "30", "40", "50", "60"]
    evaluations = read_table(run / "eval.csv")
    assert [r["step"] for r in evaluations] == ["30", "60"]
    assert all(r["episodes"] == "5" for r in evaluations)
    flags = read_json(run / "flags.json")
    assert (flags["lr"], flags["action_chunking"], flags["horizon_length"]) == (3e-3, True, 8)
    best = (run / "best").readlink().name
    asked_for = {f"checkpoint_{s}" for s in (20, 40, 60)}
    assert {p.name for p in run.glob("checkpoint_*")} == asked_for | {best}, "that of step 30 was only evaluated"
    assert {n: (run / n).readlink() for n in ("latest", "final_model")} == dict.fromkeys(
        ("latest", "final_model"), Path("checkpoint_60")
    )
    rates = {int(r["step"]): float(r["eval/success"]) for r in evaluations}
    assert (run / "best").readlink().name == f"checkpoint_{max(rates, key=lambda s: (rates[s], s))}"
    assert PolicyBundle.load(run / "checkpoint_60").run_id == flags["run_id"]
    assert len(list((run / "videos").glob("pointmass_0_*.mp4"))) == 1


@pytest.mark.slow
def test_every_evaluation_is_filmed_when_asked(ray_cpus: float, pointmass_demos: Path, tmp_path: Path) -> None:
    assert run_train(pointmass_demos, tmp_path / "run", "--video_episodes=1", "--video_evaluations=all") == 0
    folders = sorted(p.name for p in (tmp_path / "run" / "videos").iterdir())
    assert folders == ["step_30", "step_60"]
    assert all(list((tmp_path / "run" / "videos" / name).glob("pointmass_0_*.mp4")) for name in folders)


def test_train_resumes_bit_for_bit_and_refuses_what_differs(
    run: Path,
    pointmass_demos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_training_at(40, patch)
        assert run_train(pointmass_demos, out) == 130
    assert run_train(pointmass_demos, out) == 2
    assert "--resume" in capsys.readouterr().err
    assert run_train(pointmass_demos, out, "--resume", "--lr=1e-3") == 2
    assert "lr: was 0.003, is 0.001" in capsys.readouterr().err
    assert run_train(pointmass_demos, out, "--resume", "--video_episodes=0") == 0
    assert "resuming at step 40 of 60" in capsys.readouterr().out
    last = f"checkpoint_60/{WEIGHTS}"
    assert (out / last).read_bytes() == (run / last).read_bytes()
    drop = ("train/steps_per_sec",)
    rows = [[{k: v for k, v in r.items() if k not in drop} for r in read_table(f / "train.csv")] for f in (out, run)]
    assert rows[0] == rows[1]
    assert (out / "eval.csv").read_text() == (run / "eval.csv").read_text()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--env_name=pointmas-scripted-low_dim"], "did you mean"),
        (["--training_steps=0"], "training_steps: expected at least 1"),
        (["--lr=0"], "lr: expected a finite number above 0"),
        (["--horizon_length=4000"], "longest episode"),
        (["--device=cuda:9"], "device"),
        (["--dataset=/nowhere.hdf5"], "/nowhere.hdf5"),
        (["--execute_steps=9"], "execute_steps: expected at most the 8"),
        (["--seeds", "1", "1"], "--seeds: expected different seeds, got [1, 1]"),
        (["--seeds", "0", "-1"], "--seed: expected at least 0, got -1"),
        (["--dataset_proportion=0"], "--dataset_proportion: expected more than 0 and at most 1, got 0.0"),
        (["--dataset_proportion=1.5"], "--dataset_proportion: expected more than 0 and at most 1, got 1.5"),
        (["--encoder=impala_small"], "--encoder: expected None"),
        (["--dataset_replace_interval=5"], "dataset_replace_interval: expected 0, since"),
        (["--ogbench_dataset_dir=x"], "ogbench_dataset_dir: expected either this or dataset, got both"),
        (["--accumulate=65"], "--accumulate: expected at most batch_size = 64, got 65"),
        (["--num_rounds=2"], "--epochs_per_round: expected at least 1 with num_rounds = 2"),
        (["--ema_decay=1"], "--ema_decay: expected at least 0 and below 1, got 1.0"),
        (["--freeze=head"], "freeze: expected the beginning of one of"),
        (["--lr_schedule=cosine", "--min_lr=1"], "--min_lr: expected at most lr"),
    ],
)
def test_train_refuses(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    flags: list[str], expected: str,
) -> None:  # fmt: skip
    assert run_train(pointmass_demos, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_commands_without_arguments(offline: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The defaults are meant: those of a sweep are the quickstart's, those of a training name data that is not here."""
    assert cli.parse(SweepArgs, [], "raybc.sweep", "") == SweepArgs()
    assert run_main(lambda: train([])) == 2
    error = capsys.readouterr().err
    assert "halfcheetah-medium-v2 could not be downloaded" in error
    assert "/gym_mujoco_v2/halfcheetah_medium-v2.hdf5" in error, "the address"
    assert "home/datasets/d4rl/halfcheetah_medium-v2.hdf5" in error, "the place"


def test_rollout_counts_every_start_once(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = run / "checkpoint_60"
    flags = [str(bundle), "--episodes", "12", "--flow_steps", "1,4", "--workers=2"]
    plain, filmed = tmp_path / "plain", tmp_path / "filmed"
    assert run_main(lambda: rollout([*flags, f"--out={plain}"])) == 0
    assert run_main(lambda: rollout([*flags, f"--out={filmed}", "--videos=3"])) == 0

    def rows(folder: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in ("seconds", "video")} for row in lines]

    assert rows(plain) == rows(filmed), "filming changes no outcome"
    assert [(r["flow_steps"], r["index"]) for r in rows(plain)] == [(s, i) for s in (1, 4) for i in range(12)]
    assert len(list((filmed / "videos").rglob("*.mp4"))) == 8, "3 episodes and a grid for each setting"
    metrics = read_json(plain / "metrics.json")["settings"]
    for setting in metrics:
        solved = sum(r["outcome"] == "success" for r in rows(plain) if r["flow_steps"] == setting["flow_steps"])
        assert setting["successes"] == solved
        assert (setting["wilson_low"], setting["wilson_high"]) == wilson_interval(solved, 12)
    assert run_main(lambda: rollout([*flags, f"--out={plain}"])) == 2
    assert "exists" in capsys.readouterr().err


def test_rollout_goes_on_where_it_was_killed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A measurement that left 5 rows and a torn line ends as one that was not disturbed."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    flags = [str(run), "--episodes", "12", "--checkpoint=latest", "--workers=1"]
    assert run_main(lambda: rollout([*flags, f"--out={whole}"])) == 0
    lines = (whole / "episodes.jsonl").read_text().splitlines(keepends=True)
    torn.mkdir()
    (torn / "rollout.json").write_text((whole / "rollout.json").read_text())
    kept = [json.loads(line) | {"seconds": 1e6} for line in lines[3:8]]
    partial = "".join(json.dumps(row) + "\n" for row in kept) + lines[0][:40]
    (torn / "episodes.partial.jsonl").write_text(partial)
    assert run_main(lambda: rollout([*flags, f"--out={torn}"])) == 2
    assert "--resume" in capsys.readouterr().err
    assert run_main(lambda: rollout([*flags, f"--out={torn}", "--resume"])) == 0
    assert "resuming: 5 episodes are already measured" in capsys.readouterr().out

    def rows(folder: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]

    without = [[{k: v for k, v in r.items() if k != "seconds"} for r in rows(f)] for f in (whole, torn)]
    assert without[0] == without[1]
    assert [i for i, r in enumerate(rows(torn)) if r["seconds"] == 1e6] == [3, 4, 5, 6, 7], "these were not run again"
    assert not (torn / "episodes.partial.jsonl").exists()
    assert run_main(lambda: rollout([str(run), "--episodes", "13", "--workers=1", f"--out={torn}", "--resume"])) == 2
    assert "starts: was" in capsys.readouterr().err


def test_rollout_refuses_a_damaged_record(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = [str(run), "--episodes", "2", "--workers=1", f"--out={out}"]
    assert run_main(lambda: rollout(flags)) == 0
    for damage in ("{half\n", '{"outcome": "success"}\n', "[1]\n"):
        (out / "episodes.jsonl").write_text(damage)
        assert run_main(lambda: rollout([*flags, "--resume"])) == 2
        assert "episodes.jsonl: line 1 is damaged" in capsys.readouterr().err


def test_rollout_until_the_interval_is_narrow(run: Path, tmp_path: Path) -> None:
    flags = [str(run), "--until_halfwidth=0.15", "--workers=1", f"--out={tmp_path / 'o'}", "--videos=2"]
    assert run_main(lambda: rollout(flags)) == 0
    told = read_json(tmp_path / "o/metrics.json")
    setting = told["settings"][0]
    assert told["until_halfwidth"] == 0.15
    assert setting["wilson_high"] - setting["wilson_low"] <= 0.3
    assert 20 <= setting["episodes"] < 50
    outcomes = [json.loads(line)["outcome"] for line in (tmp_path / "o/episodes.jsonl").read_text().splitlines()]
    assert len(outcomes) == setting["episodes"] == halfwidth_reached([o == "success" for o in outcomes], 0.15)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--episodes=0"], "--episodes"),
        (["--until_halfwidth=0.7"], "--until_halfwidth"),
        (["--checkpoint=5"], "--checkpoint"),
        (["--workers=none"], "--workers"),
        (["--temporal_ensemble=-0.5"], "--temporal_ensemble"),
        (["--videos=99"], "--videos"),
        (["--flow_steps=1,x"], "--flow_steps"),
        (["--execute_steps=9"], "--execute_steps"),
        (["--metric=valid_error"], "--metric: expected"),
        (["--objective=normalized_score"], "--metric: expected"),  # its former name
    ],
)
def test_rollout_refuses_flags(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], expected: str
) -> None:
    bundle = run / "checkpoint_60"
    assert run_main(lambda: rollout([str(bundle), f"--out={tmp_path / 'o'}", *flags])) == 2
    assert expected in capsys.readouterr().err


def test_rollout_refuses_what_does_not_fit(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = PolicyBundle.load(run / "checkpoint_60")
    swapped = dataclasses.replace(bundle, obs_sizes={"goal": 2, "position": 4})
    swapped.save(tmp_path / "swapped")
    assert run_main(lambda: rollout([str(tmp_path / "swapped")])) == 2
    assert "observation 'position': the policy expects size 4" in capsys.readouterr().err
    dataclasses.replace(bundle, environment={**bundle.environment, "pointmass": "0"}).save(tmp_path / "older")
    flags = [str(tmp_path / "older"), "--episodes=1", "--workers=1", f"--out={tmp_path / 'o'}"]
    assert run_main(lambda: rollout(flags)) == 0
    assert "pointmass is 1; when the policy was trained, it was 0" in capsys.readouterr().out
    assert run_main(lambda: rollout([str(tmp_path / "nothing")])) == 2
    assert "expected a policy bundle" in capsys.readouterr().err


def test_files_named_in_the_tree_exist() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1].split("```")[1]
    named = re.findall(r"(?<![\w.*/])[\w/.-]+(?:/|\.yaml|\.toml)(?=\s)|Makefile", tree)
    assert len(named) > 15
    for word in named:
        assert (ROOT / word).exists() or (ROOT / "raybc" / word).exists(), word


def test_light_modules_need_only_torch_and_file_formats() -> None:
    """Training and acting can be timed on a bare machine: no Ray, gymnasium, tyro, YAML ..."""
    code = """
import importlib
from tests.bare import forbid
forbid()
import raybc.train.loop, raybc.train.checkpointing, raybc.train.action_metrics
import raybc.bundle, raybc.inference.agent, raybc.data.windows
from raybc.config.component import kinds
from raybc.policies.chunk import OBJECTIVES
named = [kind.builder for what in ("policy", "encoder") for kind in kinds(what).values()]
named += [getattr(kind, "network", "") for kind in kinds("policy").values()]
for name in filter(None, named + list(OBJECTIVES.values())):
    importlib.import_module(name.partition(":")[0])
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
