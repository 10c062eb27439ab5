"""`TrainerProcess`: one training of others in a process of its own, which waits after every policy for a sign."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from raybc.processes import end_process
from raybc.trainer.job import Task

#: Seconds that a trainer may take to end.
END_TIMEOUT = 5.0


class TrainerFailed(RuntimeError):
    """A trainer raised, or its process died."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class TrainerProcess:
    """A trainer at work."""

    def __init__(self, task: Task, log: Path, threads: int, folder: str = "") -> None:
        """log: where what it prints is added. threads: of its numerical libraries. folder: its working folder, where
        this machine has it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_path, self._log = log, log.open("ab")
        paths = [path for path in sys.path if path]
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raybc.trainer.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # so that what the trainer starts ends with it
            cwd=folder if os.path.isdir(folder) else None,
            env=os.environ | limits | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"},
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._log)
        self._say(json.dumps(dataclasses.asdict(task)))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # its end is noticed when it is read
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says until it ends. Raises `TrainerFailed`."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                raise TrainerFailed(message["error"], message["traceback"])
            yield message
            if message.get("ended"):
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT)
        raise TrainerFailed(f"the trainer's process died (status {self._process.returncode}{self._last_line()})")

    def proceed(self) -> None:
        """Let it train to the next milestone."""
        self._say("go")

    def _last_line(self) -> str:
        text = self._log_path.read_text(errors="replace").strip()
        return f": {text.splitlines()[-1]}" if text else ""

    def close(self) -> None:
        """Stop it: it may clean up, for `END_TIMEOUT` seconds."""
        self._finalizer()


def _end(process: subprocess.Popen[str], log: IO[bytes]) -> None:
    end_process(process, END_TIMEOUT)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    log.close()
