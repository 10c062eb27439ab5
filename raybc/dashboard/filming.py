"""Filming one start of a sweep because somebody asked for it on the page: an ordinary measurement in a child process.

The page may name an episode that the run counted, nothing else: the command is made here, from the run's own files, and
its folder is `filmed/` in the run. Rows, videos.json and the ledger are never touched. One film is made at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from raybc.dashboard.view import RunView
from raybc.registry import get_task, parse_env_name
from raybc.report.commands import film_command
from raybc.rows import EvaluationRow, entries_of, setting_of
from raybc.types import UserError

#: Packages of simulators, by the suite of their tasks; others cannot be looked for without running their code.
_PACKAGES = ("gym_pusht", "gymnasium_robotics", "metaworld", "ogbench", "robosuite")
#: What a request must have, and of which type.
FIELDS: dict[str, type] = {
    "trial": int, "seed": int, "phase": str, "evaluation": int, "setting": str, "place": int
}  # fmt: skip
#: Characters of what a film that failed said last.
_SAID = 600


class Busy(Exception):
    """A film is being made already."""


@dataclass
class Job:
    """A film that is being made, or the last one that was."""

    run: Path
    about: dict[str, Any]
    """What was asked for: `FIELDS`."""
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    """What the process writes."""
    began: float
    ended: float | None = None

    def said(self) -> list[str]:
        """The lines that it wrote, without control characters."""
        self.log.seek(0)
        text = self.log.read().decode("utf-8", "replace").replace("\r", "\n")
        lines = ("".join(c for c in line if c.isprintable()).strip() for line in text.splitlines())
        return [line for line in lines if line]


class Filmer:
    """Makes films for the pages of one server."""

    def __init__(self, off: str = "") -> None:
        """
        Args:
            off: why it makes none; "" if it does.
        """
        self.off = off
        self.token = secrets.token_urlsafe(32)
        """What a request must repeat; only pages of this server can read it."""
        self._lock = threading.Lock()
        self._job: Job | None = None
        atexit.register(self.close)

    def why_not(self, view: RunView) -> str:
        """Why there are no films of this run here; "" if there are."""
        if self.off:
            return self.off
        config = view.config
        if config is None or not config.train.has_environment:
            return "This run has no simulator."
        return missing_simulator(config.train.env_name)

    def start(self, view: RunView, asked: Mapping[str, Any]) -> None:
        """Film an episode. Raises `UserError` for one that the run did not count, and `Busy`."""
        reason = self.why_not(view)
        if reason:
            raise UserError(reason)
        command = command_for(view, asked)
        with self._lock:
            if self._job is not None and self._job.process.poll() is None:
                raise Busy
            if self._job is not None:
                self._job.log.close()
            log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the job)
            process = subprocess.Popen(
                [sys.executable, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1"},
            )
            self._job = Job(view.folder.path, {name: asked[name] for name in FIELDS}, process, log, time.monotonic())

    def state(self, view: RunView) -> dict[str, Any]:
        """What the page of a run needs to know: whether it may ask, and how the last film of this run is going."""
        found: dict[str, Any] = {"off": self.why_not(view), "token": "" if self.off else self.token, "job": None}
        with self._lock:
            job = self._job
            if job is None or job.run != view.folder.path:
                return found | {"busy": job is not None and job.process.poll() is None}
            code = job.process.poll()
            if code is not None and job.ended is None:
                job.ended = time.monotonic()
            lines = job.said()
            state = "running" if code is None else "done" if code == 0 else "failed"
            seconds = round((job.ended or time.monotonic()) - job.began, 1)
            said = "\n".join(lines)[-_SAID:] if state == "failed" else (lines[-1] if lines else "")
            about = {"state": state, "seconds": seconds, "said": said, **job.about}
            return found | {"job": about, "busy": code is None}

    def close(self) -> None:
        """End the process of a film that is being made; its folder can be resumed."""
        atexit.unregister(self.close)
        with self._lock:
            job, self._job = self._job, None
        if job is None:
            return
        if job.process.poll() is None:
            for sign, seconds in ((signal.SIGINT, 10.0), (signal.SIGKILL, 5.0)):  # the first lets Ray end its processes
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.process.wait(seconds)
                    break
        job.log.close()


def command_for(view: RunView, asked: Mapping[str, Any]) -> list[str]:
    """The command that films an episode. Raises `UserError` for one that the run did not count.

    asked: `FIELDS`; place: of the episode among those of its row.
    """
    for name, kind in FIELDS.items():
        if type(asked.get(name)) is not kind:
            raise UserError(f"{name}: expected a value of type {kind.__name__}, got {asked.get(name)!r:.60}")
    with view.lock:
        config, trial = view.config, view.state.trials.get(asked["trial"])
        row = None if trial is None else _row(view.rows(asked["trial"]), asked)
        if config is None or trial is None or row is None or not 0 <= asked["place"] < len(row["episode_list"]):
            raise UserError("expected an episode of this run, got one that it did not count")
        entry, task = entries_of(row)[asked["place"]]
        tasks = max(1, len(row.get("tasks", {})))
        command = film_command(
            config, view.folder, row, trial.params, str(entry[0]), task, str(asked["place"] % tasks)
        )  # fmt: skip
    if not command:
        raise UserError("the policy of this episode was not kept (only those of the last two evaluations are)")
    return command


def _row(rows: Sequence[EvaluationRow], asked: Mapping[str, Any]) -> EvaluationRow | None:
    wanted = tuple(asked[name] for name in ("seed", "phase", "evaluation", "setting"))
    for row in rows:
        if (row["seed"], row["phase"], row["evaluation"], setting_of(row).label()) == wanted:
            return row
    return None


@functools.cache
def missing_simulator(env_name: str) -> str:
    """Why the simulator of an environment cannot run here, as far as that is known without running it; else ""."""
    try:
        name = parse_env_name(env_name).task
        if ":" in name and not name.startswith("gym:"):
            return ""  # the user's own module, which is not imported for this
        task = get_task(name)
    except UserError as error:
        return str(error)
    if task.no_images:
        return f"Its simulator cannot make images: {task.no_images}"
    if task.environment is not None and not task.environment.is_here:
        built = os.access(task.environment.python, os.X_OK)
        return "" if built else f"Its simulator is not built here: raybc env build {task.environment.name}"
    if task.suite in _PACKAGES and importlib.util.find_spec(task.suite) is None:
        return f"Its simulator is not installed here: the package {task.suite}."
    return ""
