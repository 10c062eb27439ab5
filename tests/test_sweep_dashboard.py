"""`raybc sweep --dashboard`: a page beside the sweep, which stays in a terminal."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")

from benchmarks.run_folder import make_run
from raybc.cli import Failed, Interrupted, run_main
from raybc.sweep import show
from raybc.sweep.config import SweepConfig
from raybc.types import UserError
from tests.helpers import ROOT
from tests.test_dashboard import Client


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("beside") / "run", 8, 400)


def test_a_sweep_with_a_dashboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from raybc.sweep import __main__ as sweep

    def run_sweep(config: SweepConfig, launch: Any) -> None:
        url = capsys.readouterr().out.split("dashboard: ")[1].split()[0]
        assert Client(url).get("/api/run").json["trials"] == [], "the page is there before the run folder"
        make_run(launch.folder.path, 4, 200)
        time.sleep(0.6)
        assert len(Client(url).get("/api/run").json["trials"]) == 4

    monkeypatch.setattr("raybc.sweep.run.run_sweep", run_sweep)
    flags = [str(ROOT / "sweeps/pointmass.yaml"), "--dashboard", "--port"]
    assert run_main(lambda: sweep.main([*flags, "0", "--out", str(tmp_path / "out")])) == 0
    assert "to open it again: python -m raybc.dashboard" in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run_main(lambda: sweep.main([*flags, port, "--out", str(tmp_path / "other")])) == 2
    assert "is in use" in capsys.readouterr().err


def test_the_page_of_a_sweep_stays_in_a_terminal_until_ctrl_c(run: Path) -> None:
    """And only there: a script, whose output is no terminal, must not wait."""
    code = "import signal, sys; from pathlib import Path; from raybc.sweep.show import dashboard\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a process in the background ignores
    code += "with dashboard(Path(sys.argv[1]), 0): print('swept', flush=True)"
    command = [sys.executable, "-c", code, str(run)]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert (plain.returncode, "stays open" in plain.stdout) == (0, False)
    assert "to open it again: python -m raybc.dashboard" in plain.stdout
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=os.environ | {"COLUMNS": "200"}
    )
    os.close(theirs)
    said = ""
    while "(Ctrl-C ends it)" not in said:
        said += os.read(ours, 4096).decode()
    assert "the sweep has ended; its dashboard stays open: http://127.0.0.1:" in said
    url = said.split("stays open: ")[1].split()[0]
    assert Client(url).get("/api/run").json["run"]["name"] == "made-up"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0, "the exit status is the sweep's"
    os.close(ours)


def test_the_page_stays_after_a_failure_and_not_after_a_refusal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr("raybc.sweep.show.somebody_watches", lambda: True)
    monkeypatch.setattr("raybc.sweep.show.until_ctrl_c", lambda: waited.append(1))
    for error, times in ((Failed("no simulator"), 1), (UserError("no such file"), 0), (Interrupted("kept"), 0)):
        waited.clear()
        with pytest.raises(type(error), match=str(error)), show.dashboard(run, 0):
            raise error
        assert len(waited) == times, error
