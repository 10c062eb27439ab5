"""docs/robots.md, executed with a data set of a real robot's layout: nothing on the way needs a simulator."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import raybc
from raybc.data import formats
from tests.helpers import ROOT
from tests.robots import recorded_robot

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


def run(command: str) -> str:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "raybc"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "raybc", *words[1:]], capture_output=True, text=True, env=environment, timeout=280
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


class Robot:
    """A robot that plays back what was recorded; it stops at an action that is not safe."""

    def __init__(self, obs: dict[str, np.ndarray]) -> None:
        self.obs, self.sent, self.stopped = obs, [], False  # type: ignore[var-annotated]

    def get_observation(self) -> dict[str, np.ndarray]:
        return {name: array[len(self.sent)] for name, array in self.obs.items()}

    def is_safe(self, action: np.ndarray) -> bool:
        return bool(np.isfinite(action).all())

    def send_action(self, action: np.ndarray) -> None:
        self.sent.append(action)

    def stop(self) -> None:
        self.stopped = True
