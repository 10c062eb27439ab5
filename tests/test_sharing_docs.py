"""docs/sharing.md: what it shows is what one can run."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raybc
from raybc.bundle import META
from raybc.envs.pointmass import PointMassEnv
from tests.helpers import ROOT, pointmass_bundle
from tests.test_serve import serving

TEXT = (ROOT / "docs/sharing.md").read_text()
SWEEP = "runs/quickstart"


def blocks(section: str, language: str) -> list[str]:
    part = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", part, flags=re.S)


def commands(section: str) -> list[list[str]]:
    lines = [line for block in blocks(section, "bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A command of the page, with this Python."""
    words = [sys.executable, *words[1:]] if words[0] == "python" else words
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=290)


@pytest.fixture
def obs() -> dict[str, np.ndarray]:
    return PointMassEnv().reset(seed=0)[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the winner of a sweep at runs/quickstart."""
    monkeypatch.chdir(tmp_path)
    pointmass_bundle().save(tmp_path / SWEEP / "winner")
    winner = {"bundle": "winner", "setting": {"flow_steps": 2}}
    (tmp_path / SWEEP / "winner.json").write_text(json.dumps(winner))
    return tmp_path


def test_python(here: Path, obs: dict[str, np.ndarray]) -> None:
    names: dict[str, Any] = {"obs": obs}
    exec(blocks("In Python", "python")[0], names)
    np.testing.assert_array_equal(names["action"], raybc.load(SWEEP).act(obs))


def test_onnx(here: Path, obs: dict[str, np.ndarray]) -> None:
    pytest.importorskip("onnxruntime")
    for words in commands("ONNX"):
        run(words)
    assert sorted(p.name for p in here.glob("*.*")) == ["fast.json", "fast.onnx", "policy.json", "policy.onnx"]
    names: dict[str, Any] = {"obs": obs}
    exec(blocks("ONNX", "python")[0], names)
    expected = raybc.load(SWEEP).chunk(obs)
    assert (np.abs(names["chunk"] - expected) <= 1e-5 * pointmass_bundle().action_normalizer.scale).all()


def test_server(here: Path, obs: dict[str, np.ndarray]) -> None:
    """The commands but for the port, which may be taken here."""
    serve, curl, token, guarded = commands("A server")
    assert serve == ["python", "-m", "raybc.serve", SWEEP]
    with serving(*serve[3:]) as (place, _):
        names: dict[str, Any] = {"obs": obs}
        exec(blocks("A server", "python")[0].replace("127.0.0.1:8000", place), names)
        np.testing.assert_array_equal(names["action"], raybc.load(SWEEP).act(obs))
        answer = run([word.replace("127.0.0.1:8000", place) for word in curl])
        expected = raybc.load(SWEEP).chunk({"state": [-0.8, 0.2, 0, 0], "goal": [0.8, 0.1]})
        np.testing.assert_array_equal(np.array(json.loads(answer.stdout)["actions"], np.float32), expected)
    bar = token.index("|")
    secret = run(token[:bar]).stdout
    subprocess.run(token[bar + 1 :], input=secret, text=True, check=True)
    assert (here / "token").stat().st_mode & 0o777 == 0o600
    assert guarded[3:] == [SWEEP, "--host", "0.0.0.0", "--token_file", "token"]
    with serving(SWEEP, "--host=127.0.0.1", *guarded[-2:]) as (place, _):
        from raybc.serve.client import RemotePolicy

        with RemotePolicy(f"http://{place}", secret.strip()) as policy:
            np.testing.assert_array_equal(policy.act(obs), raybc.load(SWEEP).act(obs))


def test_hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dry run; what is uploaded is the same (test_hub.py)."""
    dry, push = commands("Hugging Face Hub")
    run(dry)
    assert dry[:6] == push[:6]
    assert (here / "upload/policy" / META).is_file()
    module = type(sys)("huggingface_hub")
    module.snapshot_download = lambda name: {"me/lift": here / "upload"}[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    names: dict[str, Any] = {}
    exec(blocks("Hugging Face Hub", "python")[0], names)
    assert names["policy"].setting.flow_steps == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["wandb", "mlflow"])
def test_trackers(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(("wandb", "mlflow")[number])
    monkeypatch.chdir(tmp_path)
    run(commands("Trackers")[number])
    assert list(tmp_path.rglob(("wandb_url.txt", "mlflow_url.txt")[number]))


def test_every_flag_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("raybc.export", "raybc.serve", "raybc.train"):
        with pytest.raises(SystemExit):
            importlib.import_module(f"{module}.__main__").main(["--help"])
        text = capsys.readouterr().out
        lines = [line.split("#")[0] for line in TEXT.splitlines() if f"-m {module} " in line]
        assert lines
        for flag in (f for line in lines for f in re.findall(r"--([a-z_]+)", line)):
            assert f"--{flag.replace('_', '-')}" in text, f"{module} has no --{flag}"


def test_every_block_is_run_here() -> None:
    sections = ("In Python", "ONNX", "A server", "Hugging Face Hub", "Trackers")
    assert sum(len(blocks(s, kind)) for s in sections for kind in ("bash", "python")) == TEXT.count("```") // 2
