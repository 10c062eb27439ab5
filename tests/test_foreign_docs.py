"""docs/foreign_policies.md: what it shows is what one can run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from raybc.cli import run_main
from raybc.compare.__main__ import main as compare
from raybc.export.__main__ import main as export
from raybc.files import read_json
from raybc.foreign.inputs import Inputs
from raybc.foreign.openpi import LIBERO
from raybc.rollout.__main__ import main as rollout
from tests.helpers import ROOT, pointmass_bundle

TEXT = (ROOT / "docs/foreign_policies.md").read_text()
MAINS: dict[str, Callable[[list[str]], int]] = {"rollout": rollout, "export": export, "compare": compare}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)


def commands() -> list[list[str]]:
    return [shlex.split(line)[1:] for block in blocks("bash") for line in block.splitlines()]


def run(words: list[str]) -> int:
    return run_main(lambda: MAINS[words[0]](words[1:]))


@pytest.mark.slow
def test_what_the_page_shows(
    ray_cpus: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    Path("my_policy.py").write_text(code)
    pointmass_bundle().save(Path("runs/quickstart/winner"))
    Path("runs/quickstart/winner.json").write_text(json.dumps({"bundle": "winner", "setting": {"flow_steps": 2}}))
    for words in commands():
        on_a_server = words[1].startswith(("openpi:", "vla-eval:"))
        found = run([*words, "--workers", "1"] if words[0] != "export" else words)
        said = capsys.readouterr()
        if on_a_server:  # nobody is there, which is all that is wrong
            assert found == 2
            assert "no policy is served at ws://127.0.0.1:8000" in " ".join(said.err.split())
        else:
            assert found == 0, said.err
    assert read_json(Path("runs/mine/metrics.json"))["settings"][0]["success_rate"] == 1
    settings = read_json(Path("runs/axes/metrics.json"))["settings"]
    assert [(s["execute_steps"], s["temporal_ensemble"]) for s in settings] == [(0, -1), (0, 0.01), (1, -1), (1, 0.01)]


def test_the_default_of_libero_is_as_written() -> None:
    (written,) = re.findall(r"`(observation/image=\S+)`", TEXT)
    assert Inputs.read(written) == Inputs.read(LIBERO)
