"""Files are first read by a child process, since damage may make the HDF5 library crash or never end."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from raybc.data import formats, guard
from raybc.types import UserError
from tests.conformance.formats import full_store

CRASHES = "import os, signal\nos.write(1, b'!')\nos.read(0, 100)\nos.kill(os.getpid(), signal.SIGSEGV)\n"
LOOPS = "import os\nos.write(1, b'!')\nos.read(0, 100)\nwhile True: pass\n"
DIES = "raise SystemExit(1)\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    formats.get("robomimic").write_store(tmp_path / "demos.hdf5", full_store())
    return tmp_path / "demos.hdf5"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[guard._Guard]:
    """A guard that knows no file and has no child yet."""
    made = guard._Guard()
    monkeypatch.setattr(guard, "_guard", made)
    yield made
    made.stop()


def child(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "child.py").write_text(code)
    monkeypatch.setattr(guard, "CHILD", tmp_path / "child.py")


@pytest.mark.parametrize(("code", "text"), [(CRASHES, guard.CRASHED), (LOOPS, guard.ENDLESS)])
def test_a_crash_and_a_loop_are_damage(
    code: str, text: str, path: Path, tmp_path: Path, fresh: guard._Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(code, tmp_path, monkeypatch)
    monkeypatch.setattr(guard, "CPU_SECONDS", 0.3)
    for format in ("", "robomimic", "libero"):
        with pytest.raises(UserError) as error:
            formats.read(path, format=format)
        assert str(error.value) == f"{path}: {text}"


def test_without_a_child_files_are_read_all_the_same(
    path: Path, tmp_path: Path, fresh: guard._Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(DIES, tmp_path, monkeypatch)
    assert formats.read(path).num_episodes == 3


def test_a_file_is_checked_once(path: Path, fresh: guard._Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = fresh._ask
    monkeypatch.setattr(fresh, "_ask", lambda path: asked.append(path) or ask(path))
    for _ in range(3):
        formats.read(path)
    assert len(asked) == 1
    with h5py.File(path, "a") as file:
        file["more"] = np.ones(3)
    formats.read(path)
    assert len(asked) == 2


def test_a_slow_check_is_remembered_on_disk(
    path: Path, fresh: guard._Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    assert guard.damage(path) == ""
    assert not (tmp_path / "home" / "checked").exists() or fresh.known
    fresh.known.clear()
    monkeypatch.setattr(guard, "REMEMBERED_SECONDS", 0.0)
    assert guard.damage(path) == ""
    fresh.known.clear()
    monkeypatch.setattr(fresh, "_ask", lambda path: pytest.fail("asked again"))
    assert guard.damage(path) == ""


def test_it_costs_little(path: Path, fresh: guard._Guard) -> None:
    guard.damage(path)  # starts the child
    began = time.process_time()
    for i in range(20):
        os.utime(path, ns=(i, i))
        assert guard.damage(path) == ""
    assert time.process_time() - began < 0.5
    assert len(fresh.known) == 21


def test_the_child_ends_with_its_parent(path: Path) -> None:
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_check_and_die, args=(path, send))
    process.start()
    pid = receive.recv()
    process.join(20)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
            return
        time.sleep(0.1)
    pytest.fail("the child is still there")


def _check_and_die(path: Path, send: object) -> None:
    guard.damage(path)  # after a fork, a child of its own
    assert guard._guard._child is not None
    send.send(guard._guard._child._process.pid)  # type: ignore[attr-defined]
    os._exit(9)


def test_a_file_that_declares_more_than_it_holds_is_refused(path: Path) -> None:
    """Compression and unwritten chunks let a small file declare any size."""
    with h5py.File(path, "a") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1"].create_dataset("actions", (10**11, 2), "f4", chunks=(1000, 2), compression="gzip")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"demo_1: actions: damaged: declares 745\.1 GiB, which .* on disk cannot hold"):
        formats.read(path)
    assert time.monotonic() - began < 5
