"""What a sweep is doing, from its ledger and from whether a process still works in its folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from raybc.files import is_worked_on
from raybc.report.commands import near_path
from raybc.run_folder import SweepFolder
from raybc.sweep.ledger import SweepState

#: starting: no trial yet; stopped: no process works on it, and it did not reach its end.
State = Literal["starting", "running", "stopped", "ended"]


def state_of(folder: SweepFolder, state: SweepState, timing: Any) -> State:
    """timing: timing.json, written at the end of a sweep; may be empty.

    A process that was killed writes nothing, so its lock is looked at, which the kernel releases.
    """
    if is_worked_on(folder.path):
        return "running" if state.trials else "starting"
    if not folder.config.is_file():
        return "starting"  # the dashboard was opened before the sweep
    return "ended" if _is_over(state, timing) else "stopped"


def _is_over(state: SweepState, timing: Any) -> bool:
    """Whether the last process came to the end: the stage `whole` is recorded there, `start` where it began."""
    if state.unfinished():
        return False
    whole, start = state.stages.get("whole"), state.stages.get("start")
    if not whole:
        return bool(timing and state.trials)
    return not start or whole[-1][1] >= start[-1][1]


def resume_command(command: str, folder: Path) -> str:
    """What continues a run: `raybc COMMAND --resume --out FOLDER`."""
    return shlex.join(["raybc", command, "--resume", "--out", near_path(folder)])
