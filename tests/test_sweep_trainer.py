"""A whole sweep of somebody else's training, on real Ray: the example of docs/own_training.md, and what it survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybc.dashboard.detail import detail
from raybc.dashboard.view import RunView
from raybc.files import read_json
from raybc.foreign.folder import is_foreign
from raybc.foreign.measured import measured_policy
from raybc.report.read import load_run
from raybc.rows import EpisodeRow
from raybc.sweep.ledger import SweepState
from tests.documents import Page
from tests.test_sweep import run, start, state_of, wait_for_events

#: Options that do not learn: `mode` says what happens instead.
MORE = """

def faulty(job, mode: str = "raises", features: int = 16):
    if mode == "raises":
        raise MemoryError("no room for 16 features")
    if mode == "shape":
        job.report(job.milestones[0], "module:" + __file__ + ":make_three")
    train(job, features)


def make_three(about):
    return lambda obs: np.zeros(3)
"""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainer of the documentation, in a file."""
    path = tmp_path_factory.mktemp("trainer") / "my_trainer.py"
    path.write_text(Page.of("own_training.md").files()["my_trainer.py"] + MORE)
    return path


def write_sweep(folder: Path, trainer: Path, dataset: Path, function: str = "train", **changes: Any) -> Path:
    sweep: dict[str, Any] = {
        "name": "theirs", "trainer": f"{trainer}:{function}", "seeds": [0, 3],
        "train": {"env_name": "pointmass-scripted-low_dim", "dataset": str(dataset), "training_steps": 30},
        "space": {"features": {"values": [4, 64, 128]}, "execute_steps": {"values": [1, 4]}},
        "search": {"trials": 3, "max_concurrent": 1, "points_to_evaluate": [{"features": 4}]},
        "eval": {"episodes": 6, "evaluations": 3}, "final": {"top": 1, "episodes": 8, "videos": 2},
        "resources": {"workers": 1, "worker_cpus": 0.2, "trial_cpus": 0.2},
    }  # fmt: skip
    path = folder / "theirs.yaml"
    path.write_text(yaml.safe_dump(sweep | changes))
    return path


@pytest.fixture(scope="module")
def sweep_file(trainer: Path, pointmass_demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"), trainer, pointmass_demos)


@pytest.fixture(scope="module")
def finished(ray_cpus: float, sweep_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "theirs"
    assert run(sweep_file, out) == 0
    return out


def outcomes(state: SweepState) -> dict[int, Any]:
    """Everything about the trials that does not depend on the clock, nor on the folder of the run."""

    def row(entry: EpisodeRow | Any) -> Any:
        return entry["seed"], entry["execute_steps"], entry["episode_list"]

    return {
        n: (t.params, t.status, [(e.step, e.score, [row(r) for r in e.rows]) for e in t.evaluations])
        for n, t in state.trials.items()
    }


def test_a_sweep_of_others_leaves_what_every_sweep_leaves(finished: Path) -> None:
    trials = state_of(finished).trials
    assert trials[0].params == {"features": 64}, "the default of the function"
    assert trials[1].params == {"features": 4}
    assert trials[1].status == "pruned", "4 features are too few"
    assert [e.step for e in trials[0].evaluations] == [10, 20, 30]
    winner = read_json(finished / "winner.json")
    assert winner["trial"] != 1
    assert is_foreign(finished / "winner")
    policy = measured_policy(finished / "winner")
    assert policy.env_name == "pointmass-scripted-low_dim"
    assert str(finished / "winner/files/weights.npz") in policy.reference
    table = (finished / "report.html").read_text()
    assert "Winner" in table
    assert "Reproduce the winner" not in table, "raybc has no command for it"
    assert read_json(finished / "config.json")["trainer"]["options"]["features"] == {"type": "int", "default": 64}
    assert len(read_json(finished / "videos.json")) == 2
    row = next(r for r in load_run(finished).results if r["phase"] == "final")
    assert row["episodes"] == 8
    view = RunView(finished)
    view.refresh()
    assert view.trials[0]["params"] == {"features": 64}
    shown = detail(view, 0)
    assert shown is not None
    assert shown["train_command"] == ""
    assert "trained by" in shown["note"].lower()
    assert set(shown["losses"]) == {"0", "3"}
    assert "--execute_steps" in shown["rows"][-1]["command"]


@pytest.mark.slow
def test_a_killed_sweep_of_others_ends_as_an_unbroken_one(sweep_file: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(sweep_file, out)
    wait_for_events(out, 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = (out / "ledger.jsonl").read_bytes()
    process = start(sweep_file, out)
    text, _ = process.communicate(timeout=250)
    assert process.returncode == 0, text
    assert "resuming:" in text
    assert (out / "ledger.jsonl").read_bytes().startswith(before[: before.rindex(b"\n") + 1]), "nothing is repeated"
    assert outcomes(state_of(out)) == outcomes(state_of(finished))


@pytest.mark.slow
def test_trainings_that_fail_say_why_and_the_others_go_on(
    ray_cpus: float, trainer: Path, pointmass_demos: Path, tmp_path: Path
) -> None:
    space = {"mode": {"values": ["raises", "shape", "none"]}}
    search = {"trials": 3, "max_concurrent": 1}
    train = {"env_name": "pointmass-scripted-low_dim", "dataset": str(pointmass_demos), "training_steps": 10}
    sweep = write_sweep(
        tmp_path, trainer, pointmass_demos, "faulty", space=space, search=search, train=train, seeds=[0],
        eval={"episodes": 2, "evaluations": 1}, final={"top": 1, "episodes": 2, "videos": 0},
    )  # fmt: skip
    assert run(sweep, tmp_path / "out") == 0
    trials = {t.params["mode"]: t for t in state_of(tmp_path / "out").trials.values()}
    assert trials["raises"].reason == "seed 0: MemoryError: no room for 16 features"
    assert "expected an action (2,) or a chunk (H, 2) of finite numbers, got the shape (3,)" in trials["shape"].reason
    assert trials["none"].status == "completed"
    report = (tmp_path / "out/report.html").read_text()
    assert "MemoryError: no room for 16 features" in report
    number = trials["raises"].number
    assert "raise MemoryError" in (tmp_path / f"out/trials/{number:04d}/error.txt").read_text()


BUSY = """
import os, sys, time
from pathlib import Path
def train(job):
    (job.folder / "pid").write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)
"""
PARENT = """
import sys
from pathlib import Path
from raybc.trainer.job import Task
from raybc.trainer.process import TrainerProcess
here = Path(sys.argv[1])
task = Task(f"{here}/busy.py:train", {}, 0, "data", "pointmass", "pointmass", ["state"], [10], "cpu", str(here), 0)
list(TrainerProcess(task, here / "log", 1).messages())
"""


def test_a_trainer_does_not_outlive_its_sweep(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    pid_file = tmp_path / "trainer/pid"
    end = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < end
        assert parent.poll() is None
        time.sleep(0.02)
    pid = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end, "the trainer goes on"
        time.sleep(0.02)
