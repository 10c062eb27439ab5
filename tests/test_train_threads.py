"""How many threads a training takes: those that are free, shared with other trainings, and the same after a resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raybc.train import threads
from raybc.train.member import saved_threads
from raybc.train.threads import available_cores, busy_cores, free_threads, registered
from raybc.types import UserError
from tests.test_train_initial import SMALL, train
from tests.test_train_offline import robot

#: A process that is registered as a training until its input is closed.
OTHER = """
import sys
from raybc.train.threads import registered
with registered():
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight idle cores, no other training, and no OMP_NUM_THREADS."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(threads.tempfile, "tempdir", None)  # type: ignore[attr-defined]


def test_all_cores_where_nothing_else_runs() -> None:
    assert free_threads(busy=0) == 8
    with registered():
        assert free_threads(busy=0) == 8


def test_busy_cores_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [free_threads(busy) for busy in (3, 7, 8, 30)] == [5, 1, 1, 1]
    monkeypatch.setattr(threads, "_running", iter([9, 1, 4, 4, 5]).__next__)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    assert busy_cores() == 3, "the median of other running threads"
    monkeypatch.setattr(threads, "_running", lambda: 21)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 24)
    assert busy_cores() == 4, "16 of the 24 cores are of no use here, so 16 running threads do not count"
    monkeypatch.setattr(threads, "_running", lambda: None)
    assert busy_cores() == 0, "where the system does not tell"


def test_trainings_share_the_cores() -> None:
    """Started in a loop in the background, each takes its part; a killed one is forgotten."""
    command = [sys.executable, "-c", OTHER]
    others = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(3)
    ]
    for other in others:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
    with registered():
        assert free_threads(busy=0) == 2, "8 cores for four trainings"
        others[0].kill()
        others[0].wait()
        assert free_threads(busy=0) == 2, "8 // 3"
        others[1].communicate()
        others[2].kill()
        others[2].wait()
        assert free_threads(busy=0) == 8
    assert not list(threads._register().iterdir())


def test_omp_num_threads_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("3", 3), ("64", 8), ("4,2", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert free_threads(busy=8) == expected
    for text in ("0", "many", "-1"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        with pytest.raises(UserError, match=f"OMP_NUM_THREADS: expected a number of at least 1, got '{text}'"):
            free_threads(busy=0)


def test_cores_of_this_process() -> None:
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))


def test_a_resumed_run_keeps_its_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sums, and with them the last bits of the weights, depend on their number."""
    common = ("--dataset", robot(tmp_path / "robot.hdf5"), *SMALL, "--out", tmp_path / "run")
    assert train(*common, "--training_steps=2", "--threads=1") == 0
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["threads"] == 1
    assert saved_threads(tmp_path / "run") == 1
    capsys.readouterr()
    assert train(*common, "--training_steps=4", "--resume") == 0
    assert "PyTorch threads: 1" in capsys.readouterr().out or available_cores() == 1
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["threads"] == 1
    (tmp_path / "run" / "versions.json").write_text('{"threads": 4096}')
    assert saved_threads(tmp_path / "run") == 0, "this machine has fewer cores"
    (tmp_path / "run" / "versions.json").unlink()
    assert saved_threads(tmp_path / "run") == 0, "earlier releases did not record it"
