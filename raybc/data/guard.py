"""Unknown HDF5 files are first read by a guarded child process.

Some damage makes the HDF5 library crash or never end, which would take the whole program with it. So a file that this
process has not read yet is first read in a child (`guard_child`), which is started once, imports h5py alone, and ends
when it has been idle for a minute. Files are remembered by path, size and date: in this process, and those that took
long also in raybc's cache.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from raybc.files import home
from raybc.strict import digest

CHILD = Path(__file__).with_name("guard_child.py")
#: Seconds without a sign of life: of computing, since a loop computes, and by the clock, since a disk may be slow.
CPU_SECONDS, CLOCK_SECONDS, START_SECONDS = 2.0, 45.0, 60.0
#: A check that took longer is remembered on disk, too.
REMEMBERED_SECONDS = 0.25
CRASHED = "damaged: reading it makes the HDF5 library crash"
ENDLESS = "damaged: reading it does not end"

_Key = tuple[str, int, int, int]


class _Child:
    """A running child process."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # One thread starts faster; freshly allocated memory is filled, so that damage shows there and not later here.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_PERTURB_": "165"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", str(CHILD)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment,
        )  # fmt: skip
        self.started = self._wait(START_SECONDS, START_SECONDS) == b"!"

    def read(self, path: str) -> bytes:
        """b"!" (read), b"?" (not opened), b"" (crashed) or b"." (silent)."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(path).encode() + b"\n")
        except OSError:
            return b""
        return self._wait(CPU_SECONDS, CLOCK_SECONDS)

    def idle_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _wait(self, cpu_seconds: float, clock_seconds: float) -> bytes:
        """The answer: its last byte where that is no dot, b"" where the child ended, b"." where it fell silent."""
        assert self._process.stdout is not None
        cpu, clock = self._cpu_seconds(), time.monotonic()
        while True:
            if select.select([self._process.stdout], [], [], 0.25)[0]:
                got = self._process.stdout.read(1 << 16)
                if not got or got[-1:] != b".":
                    return bytes(got or b"")[-1:]
                cpu, clock = self._cpu_seconds(), time.monotonic()
            elif self._cpu_seconds() - cpu > cpu_seconds or time.monotonic() - clock > clock_seconds:
                return b"."

    def _cpu_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # no /proc: the clock decides
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Guard:
    """The child of this process and what is known about files."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()
        self.known: dict[_Key, str] = {}
        self._child: _Child | None = None
        self._broken = False  # no child can be started: files are read without

    def check(self, path: Path) -> str:
        try:
            said = path.stat()
        except OSError:
            return ""
        key = (os.path.realpath(path), said.st_size, said.st_mtime_ns, said.st_ino)
        with self.lock:
            if key not in self.known:
                mark = home() / "checked" / digest([*key])[:32]
                if not mark.exists():
                    began = time.monotonic()
                    found = self._ask(key[0])
                    if found is None:
                        return ""
                    self.known[key] = found
                    if found or time.monotonic() - began < REMEMBERED_SECONDS:
                        return found
                    with contextlib.suppress(OSError):  # a home that cannot be written costs time only
                        mark.parent.mkdir(parents=True, exist_ok=True)
                        mark.touch()
                self.known[key] = ""
            return self.known[key]

    def _ask(self, path: str) -> str | None:
        """What is wrong with a file, "" for nothing; None where it could not be opened, which the reader explains."""
        if self._child is not None and self._child.idle_ended():
            self.stop()
        if self._child is None and not self._broken:
            try:
                self._child = _Child()
            except OSError:
                self._broken = True
            else:
                if not self._child.started:
                    self._broken = True
                    self.stop()
        if self._child is None:
            return None
        answer = self._child.read(path)
        if answer in (b"!", b"?"):
            return "" if answer == b"!" else None
        self.stop()
        return CRASHED if not answer else ENDLESS

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None


_guard = _Guard()


def damage(path: Path) -> str:
    """Why the HDF5 file `path` must not be read here ("damaged: ..."); "" where it may be. Never raises.

    The first call reads the file in the child process, up to a bound; later calls cost a look at its date.
    """
    global _guard
    if _guard.pid != os.getpid():  # after a fork: the child belongs to the parent
        known, _guard = _guard.known, _Guard()
        _guard.known = known
    return _guard.check(path)


@atexit.register
def _stop() -> None:
    if _guard.pid == os.getpid():
        _guard.stop()
