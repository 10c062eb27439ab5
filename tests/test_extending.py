"""The examples of docs/own_*.md, typed as a reader would: files are written, commands are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import yaml

from raybc.bundle import PolicyBundle
from raybc.env import Environment
from tests.documents import Page
from tests.helpers import ROOT, read_table

POLICY, ENVIRONMENT, TRAINING, DATA = (Page.of(f"own_{w}.md") for w in ("policy", "environment", "training", "data"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for page in (POLICY, ENVIRONMENT, TRAINING, DATA):
        for name, text in page.files().items():
            (tmp_path / name).write_text(text)
    return tmp_path


def typed(command: str, folder: Path) -> str:
    """Run a command as the shell does; gives what it printed."""
    bin_folder = Path(sys.executable).parent
    env = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = command.replace("raybc ", f"{sys.executable} -m raybc ", 1) if command.startswith("raybc ") else command
    command = command.replace("python -c", f"{sys.executable} -c", 1)
    run = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def test_the_documents_name_what_there_is() -> None:
    assert {
        "my_policy.py", "my_encoder.py", "my_env.py", "my_suite.py", "my_sim.py", "my_format.py", "my_trainer.py",
        "my_sweep.yaml", "write_demos.py",
    } == {name for page in (POLICY, ENVIRONMENT, TRAINING, DATA) for name in page.files()}  # fmt: skip


@pytest.mark.slow
def test_a_suite_of_ones_own(folder: Path) -> None:
    """Trained on one task, measured on two; the table has both and their mean."""
    train, rollout = ENVIRONMENT.commands("A suite of tasks")
    typed(train, folder)
    text = typed(rollout, folder)
    assert all(name in text for name in ("my_suite:NEAR", "my_suite:QUICK", "all tasks"))
    rows = read_table(folder / "runs/suite/tasks.csv")
    assert [(r["task"], r["episodes"], r["instruction"]) for r in rows] == [
        ("my_suite:NEAR", "3", "go to the goal"), ("my_suite:QUICK", "3", "go there quickly"),
    ]  # fmt: skip


def test_a_policy_of_ones_own(folder: Path, pointmass_demos: Path) -> None:
    """Checked, trained (two seeds as a pack), rolled out and exported."""
    check, train, rollout, export = POLICY.commands("A policy")
    typed(check, folder)
    out = typed(f"{train.strip()} --dataset {pointmass_demos} --threads 1 --workers 1", folder)
    assert "policy:" in out
    (seed_0,) = (folder / "runs/mine").glob("sd000_*")
    assert "train/my_loss" in read_table(seed_0 / "train.csv")[0]
    bundle = meta_of(seed_0 / "final_model")
    assert bundle["config"]["policy"] == "my_policy:MyPolicyConfig"
    assert bundle["config"]["my_width"] == 32
    assert "10" in typed(f"{rollout.strip()} --workers 1", folder)
    typed(export, folder)
    assert (folder / "mine.onnx").stat().st_size > 1000


def meta_of(path: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((path / "bundle.json").read_text())
    return found


@pytest.mark.slow
def test_a_policy_of_ones_own_in_a_sweep_and_behind_a_server(
    folder: Path, pointmass_demos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = {
        "name": "own",
        "train": {
            "env_name": "pointmass-scripted-low_dim", "dataset": str(pointmass_demos), "training_steps": 60,
            "batch_size": 32, "action_chunking": True, "horizon_length": 8, "device": "cpu",
            "policy": "my_policy:MyPolicyConfig",
        },
        "space": {"my_width": {"values": [8, 16]}, "lr": {"low": 1e-3, "high": 1e-1, "log": True}},
        "seeds": [0, 1],
        "search": {"trials": 2, "max_concurrent": 1},
        "eval": {"episodes": 3, "evaluations": 1},
        "final": {"top": 1, "episodes": 4, "videos": 0},
        "resources": {"workers": 1, "worker_cpus": 0.2, "trial_cpus": 0.2},
    }  # fmt: skip
    (folder / "own.yaml").write_text(yaml.safe_dump(sweep))
    assert "Winner" in typed("raybc sweep own.yaml", folder)
    code = (
        "import asyncio, contextlib, numpy as np, raybc\n"
        "from raybc.inference.policy import load_bundle\n"
        "from raybc.serve.batch import Batcher\n"
        "from raybc.inference.session import Session\n"
        "from pathlib import Path\n"
        "obs = {'state': np.zeros(4, np.float32), 'goal': np.zeros(2, np.float32)}\n"
        "policy = raybc.load('runs/own'); expected = policy.chunk(obs)\n"
        "bundle, setting = load_bundle(Path('runs/own'))\n"
        "session = Session(bundle, setting, 0); session.observe(obs)\n"
        "batcher = Batcher(bundle, setting)\n"
        "got = asyncio.run(batcher.predict(session.request()))\n"
        "np.testing.assert_array_equal(got, expected); print('served')\n"
    )
    (folder / "serve.py").write_text(code)
    assert "served" in typed("python -c \"exec(open('serve.py').read())\"", folder)
    monkeypatch.syspath_prepend(str(folder))
    assert PolicyBundle.load(folder / "runs/own/winner").config.policy.kind == "my_policy:MyPolicyConfig"


@pytest.mark.slow
def test_an_encoder_of_ones_own(folder: Path) -> None:
    for command in POLICY.commands("An encoder of images"):
        typed(command.strip() + (" --threads 1 --workers 1" if "train" in command else ""), folder)
    assert meta_of(folder / "runs/seen/final_model")["config"]["my_features"] == 16


def test_an_environment_and_a_format(folder: Path) -> None:
    for command in ENVIRONMENT.commands("An environment") + DATA.commands("A format of demonstrations"):
        typed(command, folder)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("import nothing_like_that", "no module 'nothing_like_that'"),
        ("raise RuntimeError('broken today')", "RuntimeError: broken today"),
        ("MyPolicyConfig = 3", "expected a frozen dataclass derived from PolicyConfig"),
        (
            "from dataclasses import dataclass\nfrom raybc.config import PolicyConfig\n"
            "@dataclass(frozen=True)\nclass MyPolicyConfig(PolicyConfig):\n    lr: float = 1.0\n"
            "    builder = 'bad:build'\n",
            "there is an option 'lr' already",
        ),
        (
            "from dataclasses import dataclass\nfrom raybc.config import PolicyConfig\n"
            "@dataclass(frozen=True)\nclass MyPolicyConfig(PolicyConfig):\n    pass\n",
            "expected `builder` to name 'module:function'",
        ),
    ],
    ids=["import fails", "raises", "no class", "hides an option", "no builder"],
)
def test_what_is_no_policy_is_refused(
    tmp_path: Path, module: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, status 2, nothing written."""
    from raybc.cli import run_main
    from raybc.train.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"bad_{abs(hash(words))}"
    (tmp_path / f"{name}.py").write_text(module.replace("'bad:build'", f"'{name}:build'"))
    flags = [f"--policy={name}:MyPolicyConfig", "--env_name=pointmass-scripted-low_dim"]
    assert run_main(lambda: main(flags)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert error.startswith("error: --policy")


@pytest.mark.slow
def test_a_simulator_with_packages_of_its_own(folder: Path, my_sim: Environment) -> None:
    """Built, checked, trained on its expert's demonstrations and rolled out, with other packages than this process."""
    build, check, train, rollout = ENVIRONMENT.commands("A simulator with packages of its own")
    assert "already complete" in typed(build, folder), "the fixture has built it"
    typed(check, folder)
    typed(f"{train.strip()} --threads 1 --workers 1", folder)
    assert "solved" in typed(f"{rollout.strip()} --workers 1", folder)
    (scores,) = (folder / "runs/rollouts").iterdir()
    versions = json.loads((scores / "versions.json").read_text())
    assert versions["simulator"] == {"numpy": "2.3.5", "environment": my_sim.key}
    assert versions["numpy"] == numpy.__version__ != "2.3.5"


@pytest.mark.slow
def test_somebody_else_s_training(folder: Path) -> None:
    sweep, rollout = TRAINING.commands()
    said = typed(f"{sweep.strip()} --cpus 2", folder)
    assert "trained by my_trainer:train" in said
    assert "Winner: trial" in said
    (pruned,) = [row for row in read_table(folder / "runs/theirs/trials.csv") if row["status"] == "pruned"]
    assert pruned["params.features"] == "16"
    assert "solved" in typed(f"{rollout.strip()} --workers 1", folder)
