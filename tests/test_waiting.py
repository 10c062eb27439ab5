"""What commands say while they work on something that takes seconds, and what they do side by side."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raybc.cluster.capacity import Machine, allocate_sweep, trials_with_room
from raybc.run_folder import SweepFolder
from raybc.sweep import run as sweep_run
from raybc.sweep.begin import Launch
from raybc.sweep.load import sweep_from_mapping
from raybc.types import UserError
from raybc.waiting import waiting
from tests.helpers import ROOT

SWEEP = {
    "name": "tiny", "seeds": [0], "space": {"lr": {"low": 1e-4, "high": 1e-3}},
    "train": {"env_name": "pointmass-scripted-low_dim", "training_steps": 40, "device": "cpu"},
    "demos": {"episodes": 4}, "search": {"trials": 1, "max_concurrent": 2},
    "eval": {"evaluations": 1, "episodes": 4}, "final": {"episodes": 4, "top": 1, "videos": 0},
}  # fmt: skip
#: Lines of a log, in this order.
PHASES = [
    "Checking the sweep tiny ...",
    "Starting Ray and building a simulator of pointmass ...",
    "Making 4 demonstrations of pointmass ...",
    "searching 1 recipes",
    "trial 0: started",
    "trial 0: step 40",
    "Measuring the best trials on the final starts ...",
    "Writing the report ...",
    "report: ",
]


def shown_in_a_terminal(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """The status of a command, and what a terminal of 80 columns gets."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=env)
    os.close(inside)
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not part:
            break
        parts.append(part)
    os.close(terminal)
    return process.wait(), b"".join(parts).decode(errors="replace")


def in_order(text: str, wanted: list[str]) -> None:
    place = 0
    for words in wanted:
        found = text.find(words, place)
        assert found >= 0, f"{words!r} is not after {text[:place][-200:]!r} in {text[-3000:]!r}"
        place = found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_on_one_core_says_what_it_does(tmp_path: Path) -> None:
    """In a log, with a single core, so that trials are run one at a time, which is said as well; then in a terminal."""
    path = tmp_path / "tiny.yaml"
    path.write_text(str(SWEEP).replace("'", '"'))
    env = os.environ | {"RAYBC_HOME": str(tmp_path / "home"), "COLUMNS": "80", "TERM": "xterm"}
    one_core = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import sys; "
        "from raybc.sweep.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", one_core, str(path), "--out", str(tmp_path / "run")]
    log = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=600)
    assert log.returncode == 0, log.stderr
    in_order(log.stdout, PHASES)
    assert "this machine has one CPU: trials are run 1 at a time instead of 2" in log.stdout
    assert "\x1b" not in log.stdout
    assert len(log.stdout.splitlines()) < 25
    again = [*command[:-1], str(tmp_path / "again")]
    status, text = shown_in_a_terminal(again, env)
    assert status == 0, text[-2000:]
    in_order(text, [PHASES[0], PHASES[1], "searching 1 recipes", "1 of 1 trials finished", "report: "])
    assert re.search(r"Starting Ray.*0:00:0\d", text), "the elapsed time"


def test_a_log_gets_a_line_and_a_phase_inside_another_one_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("Starting Ray"), waiting("Building a simulator of lift"):
        pass
    assert capsys.readouterr().out.splitlines() == ["Starting Ray ...", "Building a simulator of lift ..."]


def test_a_machine_with_one_cpu_runs_fewer_trials() -> None:
    def room(cpus: float, trials: int, **changes: float) -> int:
        asked = {"trial_cpus": 0.5, "worker_cpus": 0.5} | changes
        return trials_with_room([Machine({"CPU": cpus})], trials, simulators=True, **asked)

    assert room(1, 2) == 1
    assert room(1, 2, worker_cpus=0.0) == 2
    assert room(2, 2) == 2
    assert room(2, 9) == 9, "refused with its numbers, since the user can choose"
    one = allocate_sweep(
        [Machine({"CPU": 1})], trials=room(1, 2), trial_cpus=0.5, workers=0, worker_cpus=0.5, device="cpu"
    )
    assert (one.workers, one.threads) == (1, 1)


def test_what_needs_no_simulator_is_checked_before_one_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_run, "spec_of_task", lambda *_: pytest.fail("a simulator was built"))
    monkeypatch.setattr(sweep_run, "ray_beside", lambda *_: pytest.fail("Ray was started"))
    broken = tmp_path / "broken.hdf5"
    broken.write_bytes(b"no HDF5")
    for dataset, message in ((tmp_path / "absent.hdf5", "absent"), (broken, "broken")):
        sweep = SWEEP | {"train": SWEEP["train"] | {"dataset": str(dataset)}}  # type: ignore[operator]
        with pytest.raises(UserError, match=message):
            sweep_run.run_sweep(sweep_from_mapping(sweep, "s.yaml"), Launch(SweepFolder(tmp_path / "run")))
        assert not (tmp_path / "run").exists()


def test_the_driver_of_a_sweep_needs_no_torch() -> None:
    """Importing it takes as long as starting Ray; scipy takes half a second."""
    code = "import raybc.sweep.search, sys; assert not {'torch', 'scipy'} & sys.modules.keys()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_a_local_ray_has_few_services_and_leaves_nothing_behind() -> None:
    """Started beside other work, also where the program is asked to end meanwhile."""
    code = """
import os, pathlib, sys, time, psutil, ray
from raybc.cluster.session import ray_beside
me = psutil.Process()
with ray_beside(num_cpus=1) as connected:
    assert connected() == 1.0
    names = sorted(" ".join(p.cmdline()) for p in me.children(recursive=True))
    assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()
    log = pathlib.Path(ray._private.worker._global_node.get_logs_dir_path()) / "dashboard_agent.log"
    while "Loaded" not in (said := log.read_text() if log.exists() else ""):
        time.sleep(0.1)
    assert "Loaded 0 modules" in said, said
    print(sum("dashboard/dashboard.py" in n or "monitor.py" in n for n in names), flush=True)
    children = me.children(recursive=True)
    if len(sys.argv) > 1:
        print(*[p.pid for p in children], flush=True)
        sys.stdin.read()
gone, alive = psutil.wait_procs(children, timeout=20)
assert not alive, alive
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["0"]
    assert "SIGTERM handler is not set" not in ended.stderr
    process = subprocess.Popen(
        [sys.executable, "-c", code, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    process.stdout.readline()
    pids = list(map(int, process.stdout.readline().split()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == signal.SIGTERM, "as where Ray starts in the main thread"
    import psutil

    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert psutil.wait_procs(left, timeout=20)[1] == []
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()
