"""docs/robots.md, executed with a data set of a real robot's layout: nothing on the way needs a simulator."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raybc
from raybc.data import formats
from raybc.inference.offline import offline_error
from raybc.serve.client import RemotePolicy
from tests.documents import Page
from tests.helpers import ROOT
from tests.robots import recorded_robot
from tests.test_drive import Time
from tests.test_serve import serving

TEXT = (ROOT / "docs/robots.md").read_text()
#: What the page says -> what is executed, so that it ends in seconds.
SMALLER = (
    (r"--training_steps 20000 --eval_interval 2000", "--training_steps 60 --eval_interval 20 --hidden_width 32"),
    (r"training_steps: 20000", "training_steps: 60, hidden_width: 32, log_interval: 20"),
    (r"trials: 12", "trials: 3"),
    (r"evaluations: 4", "evaluations: 2"),
)


def blocks(section: str, language: str) -> list[str]:
    part = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = re.findall(rf"```{language}\n(.*?)```", part, flags=re.S)
    for pattern, smaller in SMALLER:
        found = [re.sub(pattern, smaller, block) for block in found]
    return found


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def run(command: str) -> str:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "raybc"
    done = subprocess.run(
        [sys.executable, "-m", "raybc", *words[1:]], capture_output=True, text=True, env=environment(), timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robot")
    recorded_robot(folder / "my_robot")
    return folder


@pytest.fixture(autouse=True)
def in_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)


def test_the_data_are_read_as_written(here: Path) -> None:
    """Three data files and three videos for each camera."""
    assert len(list((here / "my_robot").rglob("data/**/*.parquet"))) == 3
    assert len(list((here / "my_robot").rglob("*.mp4"))) == 6
    store = formats.read(here / "my_robot", images=True)
    written = recorded_robot(here / "again")
    assert store.num_episodes == 12
    for name in ("state", "front", "wrist"):
        np.testing.assert_array_equal(store.obs[name], written.obs[name])
    np.testing.assert_array_equal(store.actions_NA, written.actions_NA)


@pytest.mark.slow
def test_look_and_train(here: Path) -> None:
    look = [run(line) for line in blocks("1. Look at the data", "bash")[0].splitlines()]
    assert "12" in look[0]
    assert "front" in look[0]
    assert "0 errors" in look[1]
    state, images = blocks("2. Train", "bash")
    out = run(state)
    assert "the policy sees state and gives 7 numbers. No success rate is measured" in out
    assert "2 of 12 episodes are held out" in out
    with (here / "runs/state/offline.csv").open(newline="") as handle:
        measured = list(csv.DictReader(handle))
    assert [row["step"] for row in measured] == ["20", "40", "60"]
    assert "valid/rmse_j7" in measured[0]
    assert (here / "runs/state/best").exists()
    out = run(images)
    assert "the policy sees state, front, wrist and gives 7 numbers" in out
    policy = raybc.load(here / "runs/images")
    assert policy.bundle.images == {"front": (24, 32, 3), "wrist": (24, 32, 3)}


@pytest.mark.slow
def test_search_and_drive(here: Path) -> None:
    """From a sweep's winner to actions: in this process, from a server, and as an ONNX file; all agree."""
    (here / "my_robot.yaml").write_text(blocks("3. Search", "yaml")[0])
    out = run(blocks("3. Search", "bash")[0].strip())
    assert "no success rate was measured" in out.lower()
    winner = json.loads((here / "runs/sweep/winner.json").read_text())
    assert "success" not in (here / "runs/sweep/leaderboard.md").read_text().lower().replace(
        "no success rate was measured", ""
    )
    store = formats.read(here / "my_robot")
    bundle = raybc.load(here / "runs/sweep").bundle
    assert bundle.config.env_name == "none"
    policy = raybc.load(here / "runs/sweep")
    found = offline_error(policy._agent, store, np.arange(12), policy.setting)
    assert 0 < found.error < 3
    assert winner["bundle"] == "winner"

    for name, text in Page.of("robots.md").files().items():
        (here / name).write_text(text)
    names: dict[str, Any] = {"__name__": "drive"}
    arm: dict[str, Any] = {}
    exec((here / "my_arm.py").read_text(), arm)
    exec((here / "drive.py").read_text(), names)
    time = Time()
    driven = arm["Arm"]()
    assert names["drive"](driven, policy, 2.0, clock=time.clock, sleep=time.sleep) == "time is up"
    assert np.abs(driven.joints).max() > 0, "it has moved"
    done = subprocess.run([sys.executable, "drive.py"], capture_output=True, text=True, timeout=280, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("time is up", "stopped: the last 4 steps took longer than 50 ms")), "a busy machine"
    with serving(here / "runs/sweep") as (place, _), RemotePolicy(f"http://{place}") as remote:
        for one in (policy, remote):
            one.reset(0)  # type: ignore[attr-defined]
        for row in store.obs["state"][:5]:
            np.testing.assert_array_equal(remote.act({"state": row}), policy.act({"state": row}))
        policy.reset(0)
        remote.reset(0)
        np.testing.assert_array_equal(remote.act(store.obs["state"][0]), policy.act(store.obs["state"][0]))
    pytest.importorskip("onnxruntime")
    run(blocks("4. Drive the robot", "bash")[1].splitlines()[1])
    facts = json.loads((here / "policy.json").read_text())
    assert (facts["env_name"], facts["fps"]) == ("none", None)
