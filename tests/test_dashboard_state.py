"""Whether somebody works on a run: of a process that was killed nothing is written, so its lock tells."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")

from benchmarks.run_folder import make_run
from raybc.dashboard.index import Index
from raybc.dashboard.several import overview
from raybc.dashboard.view import RunView
from raybc.files import SILENCE, is_worked_on, run_folder_lock
from raybc.sweep.__main__ import Args, sweep_of
from raybc.sweep.heartbeat import heartbeat
from raybc.types import UserError
from tests.helpers import ROOT

GOLDEN = ROOT / "tests/golden/v0.1.0"
#: A process that works on a run folder until it is killed.
WORK = "import sys, time; from pathlib import Path; from raybc.files import run_folder_lock\n"
WORK += "with run_folder_lock(Path(sys.argv[1])):\n    print('begun', flush=True)\n    time.sleep(600)"


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of release 0.1.0 that was killed: progress.json says that it runs."""
    monkeypatch.setattr("raybc.dashboard.view.REFRESH_INTERVAL", 0.0)
    monkeypatch.setattr("raybc.dashboard.index.BUDGET", 60.0)
    return Path(shutil.copytree(GOLDEN / "sweep", tmp_path / "runs" / "killed"))


@pytest.fixture
def worker(unfinished: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WORK, str(unfinished)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def states(folder: Path, index: Index) -> dict[str, Any]:
    """What the three pages say, and the command that they give."""
    view = RunView(folder)
    view.refresh()
    alone, row = view.since(-1, -1), index.overview()["runs"][0]
    return {
        "alone": alone["state"],
        "several": overview([view])["runs"][0]["state"],
        "index": row["state"],
        "resume": row["resume"],
    }


def test_a_killed_sweep_does_not_run(unfinished: Path, worker: subprocess.Popen[str]) -> None:
    index = Index(unfinished.parent)
    assert states(unfinished, index) == {"alone": "running", "several": "running", "index": "running", "resume": ""}
    with pytest.raises(UserError, match="another process is writing to this run folder"), run_folder_lock(unfinished):
        pass
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    found = states(unfinished, index)
    assert (found["alone"], found["several"], found["index"]) == ("stopped", "stopped", "stopped")
    words = found["resume"].split()
    assert words == ["raybc", "sweep", "--resume", "--out", str(unfinished)]
    _, config, folder = sweep_of(Args(resume="True", out=Path(words[-1])), [])
    assert (config.search.trials, folder.path) == (5, unfinished), "the command continues this sweep"


def test_looking_at_a_lock_keeps_nobody_out(unfinished: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_worked_on(unfinished)
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            with run_folder_lock(unfinished):
                assert is_worked_on(unfinished)
    finally:
        stop.set()
        thread.join()
    assert not is_worked_on(unfinished)
    assert (unfinished / ".lock").read_text() == f"{socket.gethostname()}\n"
    assert not is_worked_on(unfinished.parent / "none")


def test_another_machine_gives_signs_of_life(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock may not be seen here."""
    lock = unfinished / ".lock"
    lock.write_text("another\n")
    assert is_worked_on(unfinished)
    old = time.time() - SILENCE - 1
    os.utime(lock, (old, old))
    assert not is_worked_on(unfinished)
    monkeypatch.setattr("raybc.sweep.heartbeat.INTERVAL", 0.01)
    with heartbeat(unfinished):
        end = time.monotonic() + 30
        while not is_worked_on(unfinished) and time.monotonic() < end:
            time.sleep(0.01)
    assert is_worked_on(unfinished)


def test_where_a_sweep_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybc.dashboard.view.REFRESH_INTERVAL", 0.0)

    def state(folder: Path) -> str:
        view = RunView(folder)
        view.refresh()
        return str(view.since(-1, -1)["state"])

    assert state(tmp_path / "later") == "starting", "the dashboard was opened first"
    run = make_run(tmp_path / "run", 10, 500)
    assert state(run) == "ended"
    with run_folder_lock(run):
        assert state(run) == "running", "it is resumed, e.g. with more trials"
    began = time.time()
    with (run / "ledger.jsonl").open("a") as file:
        file.write(json.dumps({"event": "stage", "name": "start", "start": began, "end": began + 3}) + "\n")
    assert state(run) == "stopped", "the process that resumed it did not come to the end"
    (run / "ledger.jsonl").unlink()
    assert state(run) == "stopped"
    with run_folder_lock(run):
        assert state(run) == "starting"
