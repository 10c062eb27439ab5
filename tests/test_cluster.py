"""A sweep on several Ray nodes, and what is said where a cluster cannot be used."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybc.cli import run_main
from raybc.cluster.nodes import look_for
from raybc.files import run_folder_lock
from raybc.sweep.__main__ import main
from raybc.sweep.ledger import read_events
from tests.test_sweep import check_complete, state_of, write_sweep

ROOT = Path(__file__).parents[1]


class Nodes:
    """Ray nodes in processes of their own, so that the Ray of the other tests is left alone."""

    def __init__(self, port: int, cpus: tuple[float, ...]) -> None:
        self.env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nodes", str(port), *map(str, cpus)],
            env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self.address = self._read("address")

    def _read(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise AssertionError("the nodes did not start")

    def kill_last(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._read("killed")

    def end(self) -> None:
        self._process.communicate(timeout=60)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command], env=self.env, capture_output=True, text=True, timeout=240
        )


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Nodes]:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    nodes = Nodes(port, (1.0, 1.0))
    yield nodes
    nodes.end()


@pytest.mark.slow
def test_doctor_finds_two_nodes_well(two_nodes: Nodes, tmp_path: Path) -> None:
    seen = two_nodes.run("raybc.doctor", "--address", two_nodes.address, "--storage", str(tmp_path), "--json")
    assert f"{tmp_path} is one disk, writable on every machine" in seen.stdout, seen.stderr
    assert "2 machines, 2 CPUs" in seen.stdout
    assert "no job that has ended holds any" in seen.stdout


@pytest.mark.slow
def test_a_node_that_dies_costs_a_sweep_nothing(two_nodes: Nodes, pointmass_demos: Path, tmp_path: Path) -> None:
    sweep = write_sweep(
        tmp_path, pointmass_demos, train={"training_steps": 600}, search={"trials": 4, "max_concurrent": 2},
        eval={"episodes": 10, "evaluations": 3}, final={"top": 2, "episodes": 10, "videos": 0},
        resources={"worker_cpus": 0.4, "trial_cpus": 0.4, "workers": 2},
    )  # fmt: skip
    out = tmp_path / "out"
    command = [sys.executable, "-m", "raybc.sweep", str(sweep), "--out", str(out), "--address", two_nodes.address]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=two_nodes.env, stdout=log, stderr=log)
    end = time.monotonic() + 120
    while not (out / "ledger.jsonl").exists() or len(read_events(out / "ledger.jsonl")) < 5:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.1)
    two_nodes.kill_last()
    assert process.wait(timeout=200) == 0, (tmp_path / "log").read_text()
    check_complete(out, 4)
    assert all(t.status != "failed" for t in state_of(out).trials.values())


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line that a sweep with these flags ends with."""
    capsys.readouterr()
    assert run_main(lambda: main(list(flags))) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    return error


@pytest.fixture
def sweep_file(pointmass_demos: Path, tmp_path: Path) -> str:
    return str(write_sweep(tmp_path, pointmass_demos))


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:1", ("nothing answers", "refused", "ray up")), ("head", ("HOST:PORT", "'head'"))],
)
def test_an_unreachable_head(
    sweep_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests' Ray would be used
    started = time.monotonic()
    said = refused(capsys, sweep_file, "--out", str(tmp_path / "out"), "--address", address)
    assert all(word in said for word in words), said
    assert time.monotonic() - started < 20


def test_a_run_folder_that_cannot_be_written(
    sweep_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", Path("/sys/raybc/run")):
        said = refused(capsys, sweep_file, "--out", str(folder))
        assert str(folder) in said
        assert "--out" in said


def test_two_sweeps_in_one_folder(sweep_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with run_folder_lock(out):
        said = refused(capsys, sweep_file, "--out", str(out))
        assert "another process is writing to this run folder" in said
        assert "another process" in refused(capsys, sweep_file, "--out", str(out), "--resume=auto")


def test_a_disk_that_is_not_shared_is_named(tmp_path: Path) -> None:
    shared, other, data = tmp_path / "shared", tmp_path / "other", tmp_path / "data"
    for folder in (shared, other):
        folder.mkdir()
    (shared / "mark").write_text("word")
    data.write_text("12345")
    assert look_for([str(shared)], "mark", "word", {str(data): 5}) == []
    assert sorted(p.name for p in shared.iterdir()) == ["mark"], "nothing is left behind"
    problems = look_for([str(other), str(tmp_path / "none")], "mark", "word", {str(data): 4, "/none": 1})
    assert len(problems) == 4
    assert "is another disk (what others write is not seen)" in problems[0]
    assert "is another file" in problems[2]
    (other / "mark").write_text("else")
    assert "is another disk" in look_for([str(other)], "mark", "word", {})[0]


# --- the script that prepares a machine -------------------------------------------------------------------------------


def prepare(home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "tools" / "cluster_node.sh")],
        env={"PATH": f"{home}/bin:{os.environ['PATH']}", "HOME": str(home), **env},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a user of a machine, with the code and an installation that pretends."""
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("t" * 64)
    (home / ".ray" / "auth_token").chmod(0o644)
    (home / ".bashrc").write_text("echo mine\n")
    (home / "raybc-src").symlink_to(ROOT)
    programs = {
        "raybc-env/bin/python": f'echo "$@" >> {shlex.quote(str(home / "calls"))}',
        "bin/ldconfig": "echo libEGL.so.1",
    }
    for name, does in programs.items():
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(f"#!/bin/sh\n{does}\n")
        (home / name).chmod(0o755)
    return home


def test_a_machine_is_prepared_once(home: Path, tmp_path: Path) -> None:
    storage = str(tmp_path / "storage")
    for _ in range(2):
        done = prepare(home, RAYBC_STORAGE=storage, RAYBC_EXTRAS="mujoco")
        assert done.returncode == 0, done.stderr
    calls = (home / "calls").read_text().splitlines()
    assert len(calls) == 1, "installed once"
    assert "constraints.txt" in calls[0]
    assert calls[0].endswith("raybc-src[mujoco]")
    lines = (home / ".bashrc").read_text().splitlines()
    assert lines[-1] == "echo mine"
    assert len(lines) == 3
    assert "RAY_AUTH_MODE=token" in lines[1]
    assert f"RAYBC_HOME={storage}/cache" in lines[0]
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert list(Path(storage).iterdir()) == [], "the probe is gone"


def test_a_machine_without_the_shared_disk_does_not_join(home: Path) -> None:
    done = prepare(home, RAYBC_STORAGE="/sys/raybc")
    assert done.returncode == 1
    assert "/sys/raybc: not writable" in done.stderr
    assert not (home / "calls").exists()
