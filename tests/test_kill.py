"""kill -9 at random moments: of the driver with all of its Ray, of trial processes, of simulators."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from raybc.dashboard.view import RunView
from raybc.sweep.ledger import read_events
from tests.test_sweep import check_complete, start, state_of, wait_for_events, write_sweep


def sweep_of(folder: Path, dataset: Path) -> Path:
    """Slow enough that kills hit every phase."""
    return write_sweep(
        folder, dataset, train={"training_steps": 1500}, search={"trials": 8, "max_concurrent": 2},
        eval={"episodes": 30, "evaluations": 3}, resources={"worker_cpus": 0.4, "trial_cpus": 0.4, "workers": 2},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_kills_of_everything(pointmass_demos: Path, tmp_path: Path) -> None:
    """No finished trial is run again, none is lost, no row is doubled, the asked number of trials is there."""
    sweep, out = sweep_of(tmp_path, pointmass_demos), tmp_path / "out"
    rng = random.Random(0)
    finished: dict[int, tuple[str, float | None]] = {}
    kills = 0
    while kills < 10:
        process = start(sweep, out)
        # Some kills come while Ray starts, most while trials run.
        time.sleep(rng.uniform(3, 22))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        if (out / "config.json").is_file():
            view = RunView(out)
            view.refresh()
            assert view.since(-1, -1)["state"] == "stopped", "its dashboard says so"
        trials = state_of(out).trials if (out / "ledger.jsonl").exists() else {}
        now = {n: (t.status, t.score) for n, t in trials.items() if t.finished}
        assert finished.items() <= now.items(), "a finished trial was run again or lost"
        finished = now
    assert kills == 10, f"the sweep was over after {kills} kills"
    process = start(sweep, out)
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    check_complete(out, 8)
    after = {n: (t.status, t.score) for n, t in state_of(out).trials.items()}
    assert finished.items() <= after.items()


def children(process: psutil.Process, name: str) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        pytest.param("ray::SimWorker", 1, marks=pytest.mark.slow),  # a pool alone: tests/test_pool.py
        pytest.param("ray::ImplicitFunc", 1, marks=pytest.mark.slow),  # a pack of one is a pack
        ("ray::ImplicitFunc", 3),
    ],
)
def test_a_killed_trial_or_simulator_does_not_end_the_sweep(
    pointmass_demos: Path, tmp_path: Path, name: str, pack: int
) -> None:
    sweep, out = sweep_of(tmp_path, pointmass_demos), tmp_path / "out"
    few = ("search.trials=4", f"search.pack={pack}", "train.training_steps=900", "eval.episodes=15")
    process = start(sweep, out, *(word for setting in few for word in ("--set", setting)))
    wait_for_events(out, 3, process)
    victims: list[int] = []
    while process.poll() is None and len(victims) < 2:
        family = children(psutil.Process(process.pid), name)
        if family and len(read_events(out / "ledger.jsonl")) >= 3 * len(victims):
            victims.append(family[0].pid)
            os.kill(family[0].pid, signal.SIGKILL)
            time.sleep(2)
        time.sleep(0.1)
    text, _ = process.communicate(timeout=250)
    assert process.returncode == 0, text
    assert victims, "nothing was killed"
    check_complete(out, 4)
    assert all(t.status != "failed" for t in state_of(out).trials.values())
