"""Start work in a run folder: no other process writes to it, and `--overwrite` replaces a whole run or nothing.

    with starting(SweepFolder(out), overwrite, inputs) as begun:
        ...          # what can still be refused
        write_json(folder.config, ...)
        begun()      # from here on the new run is there; what it replaces is deleted

A folder is replaced only if raybc wrote everything in it, and if neither the data that the run reads nor the working
directory is inside. The old run is moved aside first. If the new one is refused before it has begun, the old one is
moved back, and a folder that was made for nothing is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from raybc.compare.folder import CompareFolder
from raybc.files import remove, run_folder_lock
from raybc.rollout.folder import EvaluationFolder
from raybc.run_folder import SweepFolder, TrainingFolder
from raybc.types import UserError

Run = TrainingFolder | SweepFolder | EvaluationFolder | CompareFolder

#: What trackers write.
_TRACKERS = ("wandb", "wandb.json", "wandb_url.txt", "mlflow.json", "mlflow_url.txt")
#: Entries that no property of the folder's class names, as patterns.
_ALSO = {
    TrainingFolder: ("checkpoint_*", "sd*_*", *_TRACKERS),
    SweepFolder: ("trials", "tensorboard", *_TRACKERS),
    EvaluationFolder: ("videos",),
    CompareFolder: ("arms",),
}
#: Files that raybc (or the desktop) leaves in any folder.
_ANYWHERE = (".lock", ".*.tmp", ".*.old", ".DS_Store")
#: Class -> word for messages.
_NAMES = {
    TrainingFolder: "training run",
    SweepFolder: "sweep",
    EvaluationFolder: "evaluation",
    CompareFolder: "comparison",
}


#: Values of --resume. auto: resume if there is a saved run, otherwise start a new one.
Resume = Literal["False", "True", "auto"]


def check_folder(run: Run, begun: Path, resume: Resume, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise `UserError` if the flags do not fit the state of a run folder.

    An existing run is neither continued nor overwritten by accident, and only a run that was started can be resumed.

    Args:
        run: the run folder.
        begun: a file that exists in the folder of every started run.
        resume: the value of --resume.
        overwrite: the value of --overwrite.
        inputs: files and folders that the run reads.
    """
    folder = run.path
    if resume != "False" and overwrite:
        raise UserError("expected --resume or --overwrite, got both")
    aside = _left_aside(run)
    if aside is not None:
        raise UserError(
            f"{folder}: an earlier --overwrite was stopped before its own run had begun; the run that it would have "
            f"replaced is {aside}: take it back with `mv {aside} {folder.resolve()}`, or delete it"
        )
    if resume == "True" and not begun.exists():
        raise UserError(
            f"--resume: nothing to resume in {folder}; leave --resume out to start a new run, or use "
            "--resume=auto to resume a saved run or else start one"
        )
    if overwrite:
        check_replaceable(run, inputs)
    elif resume == "False" and _entries(folder):
        if not is_run(run):
            raise UserError(
                f"{folder}: expected a new folder, or that of a {_NAMES[type(run)]}; it holds "
                f"{_some(_entries(folder))}: choose another --out"
            )
        raise UserError(
            f"{folder}: this run folder exists; continue it with --resume, replace it with --overwrite, "
            "or choose another with --out"
        )


@contextlib.contextmanager
def starting(run: Run, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Callable[[], None]]:
    """Lock the folder of `run` for this process; yields a function to call when the run has begun.

    Args:
        run: the folder of a new run, or of one that is resumed.
        overwrite: replace the run that is there.
        inputs: files and folders that the run reads.

    Raises `UserError` if the folder must not be replaced, is locked, or cannot be written.
    """
    if overwrite:
        check_replaceable(run, inputs)
    folder = run.path.resolve()
    is_new = not folder.exists()
    aside: Path | None = None
    has_begun = False

    def begun() -> None:
        nonlocal has_begun
        has_begun = True
        if aside is not None:
            _delete(aside)

    with contextlib.ExitStack() as stack:
        stack.enter_context(run_folder_lock(folder))
        if overwrite and _entries(folder):
            aside = _move_aside(folder)
            stack.enter_context(run_folder_lock(folder))
        elif is_run(run):  # what a process left that was killed while it deleted the run it had replaced
            for leftover in _asides(folder):
                _delete(leftover)
        try:
            yield begun
        finally:
            if not has_begun and aside is not None:
                remove(folder)
                os.rename(aside, folder)
            elif not has_begun and is_new:
                remove(folder)


def check_replaceable(run: Run, inputs: Iterable[Path] = ()) -> None:
    """Raise `UserError` unless `--overwrite` may replace the folder of `run`: see the head of this file."""
    folder, what = run.path, _NAMES[type(run)]
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"--overwrite: {folder} is a link to {os.readlink(folder)}, which does not exist")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--overwrite: {folder} is a file; expected the folder of a {what}")
    for path in inputs:
        if _is_inside(path, folder):
            raise UserError(
                f"--overwrite: {path}, which this command reads, is inside {folder}; move it, or choose another --out"
            )
    if _is_inside(Path.cwd(), folder):
        raise UserError(f"--overwrite: {folder} holds the working directory; change it, or choose another --out")
    entries = _entries(folder)
    if not entries:
        return
    if not is_run(run):
        raise UserError(
            f"--overwrite replaces a {what}, and {folder} is none (it holds {_some(entries)}); nothing was deleted: "
            "choose another --out"
        )
    foreign = sorted(name for name in entries if not any(Path(name).match(known) for known in _known(run)))
    if foreign:
        raise UserError(
            f"--overwrite: {folder} also holds {_some(foreign)}, which raybc did not write; nothing was deleted: move "
            "it away, or choose another --out"
        )


def is_run(run: Run) -> bool:
    """Whether a command of raybc began a run of this kind in the folder."""
    if isinstance(run, TrainingFolder):
        if _has(run.flags, "run_id"):
            return True
        members = [path for path in run.path.glob("sd*") if _has(TrainingFolder(path).flags, "run_id")]
        is_pack = run.pack.is_file() or run.state.is_file() or run.path.name.startswith("pack_")
        return bool(members) and is_pack
    if isinstance(run, SweepFolder):
        return _has(run.config, "search") or run.ledger.is_file()
    return _has(run.request, "arms" if isinstance(run, CompareFolder) else "run_id")


def _left_aside(run: Run) -> Path | None:
    """The run that an earlier process moved away before it was killed, if nothing has taken its place."""
    found = _asides(run.path)
    return found[0] if found and not is_run(run) else None


def _has(path: Path, key: str) -> bool:
    """Whether `path` is the JSON file of a run: one with `key`, or a damaged one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return False
    except (ValueError, RecursionError):  # damaged: --overwrite is what repairs it
        return True
    return isinstance(value, dict) and key in value


def _known(run: Run) -> list[str]:
    """Patterns of what raybc writes into the folder."""
    names = [name for name, member in vars(type(run)).items() if isinstance(member, property)]
    paths = [getattr(run, name) for name in names]
    own = [path.name for path in paths if isinstance(path, Path) and path.parent == run.path]
    return [*own, *_ALSO[type(run)], *_ANYWHERE]


def _entries(folder: Path) -> list[str]:
    """What is in the folder, besides files that are in any folder."""
    if not folder.is_dir():
        return []
    return [p.name for p in folder.iterdir() if not any(p.match(known) for known in _ANYWHERE)]


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or below it, as written or where links lead."""
    if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        return True
    return path.resolve().is_relative_to(folder.resolve())


def _asides(folder: Path) -> list[Path]:
    target = folder.resolve()
    return sorted(p for p in target.parent.glob(".*.replaced") if p.name.startswith(f".{target.name}."))


def _move_aside(folder: Path) -> Path:
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.replaced"
    try:
        os.rename(folder, aside)
    except OSError as error:
        raise UserError(
            f"--overwrite: {folder} cannot be moved away ({error.strerror}); nothing was deleted: choose another --out"
        ) from None
    return aside


def _delete(aside: Path) -> None:
    """Delete what was replaced. What cannot be deleted stays, under its hidden name."""
    with contextlib.suppress(OSError):
        remove(aside)
