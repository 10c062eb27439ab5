"""Atomic writes, and the lock of a run folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from raybc.causes import denied, expect_file
from raybc.types import UserError

#: Held by the process that writes to a run folder.
_LOCK = ".lock"
#: Seconds without a sign of life after which a process of another machine counts as ended.
SILENCE = 300.0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`, which replaces `path` at the end of the block and is removed on an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        if temporary.is_dir():
            if path.exists():  # a folder cannot be replaced atomically, so the old one is moved away first
                aside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.old"
                os.rename(path, aside)
                try:
                    os.rename(temporary, path)
                except BaseException:
                    os.rename(aside, path)
                    raise
                remove(aside)
            else:
                os.rename(temporary, path)
        else:
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def point_to(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target` in the same folder, atomically."""
    temporary = link.parent / f".{link.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.symlink_to(target.name)
    os.replace(temporary, link)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Raises `ValueError` for nan and inf."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises `UserError` if the file is missing, damaged, or another than it should be."""
    return parse_json(read_text(path, "a JSON file", "JSON"), str(path))


def read_text(path: Path, what: str, kind: str) -> str:
    """The text of a file in UTF-8. Raises `UserError` for files that cannot be read and for other encodings.

    what: the file with its article, kind: its language, for messages.
    """
    expect_file(path, what, may_be_empty=kind == "YAML")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as {kind}: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {denied(path, error) or f'cannot be read ({error.strerror})'}") from None


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text. Raises `UserError`, beginning with `where`, for others."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{where}: not readable as JSON: nested too deeply") from None
    except ValueError as error:  # also text that is not UTF-8 and numbers of more than 4300 digits
        raise UserError(f"{where}: not readable as JSON: {error}") from None


def expanded(path: Path | str, where: str = "") -> Path:
    """`path` with ~ replaced by the user's home. Raises `UserError`, which begins with `where`, if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        prefix = f"{where}: " if where else ""
        raise UserError(f"{prefix}{path}: there is no home folder of that user; write the whole path") from None


def remove(path: Path) -> None:
    """Delete a file, a link (not what it leads to) or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def free_space_for(folder: Path, megabytes: int, advice: str = "free some or use --out") -> None:
    """Raise `UserError`, with `advice`, if the disk of `folder` has less than this free space, in MB."""
    probe = folder
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free // 2**20
    if free < megabytes:
        raise UserError(f"{folder}: expected at least {megabytes} MB of free disk, got {free} MB; {advice}")


@contextlib.contextmanager
def run_folder_lock(folder: Path) -> Iterator[None]:
    """Lock a run folder. The kernel releases the lock when the process ends; the file names the machine (see
    `is_worked_on`).

    Raises `UserError` if another process holds it, or if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / _LOCK).open("a")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder with --out") from None
    with handle:
        # Several tries, since a dashboard that looks whether it is locked holds it for a moment.
        if not any(_lock(handle, pause) for pause in (0.0, 0.05, 0.1)):
            raise UserError(f"{folder}: another process is writing to this run folder; wait, or use --out")
        handle.truncate(0)
        handle.write(f"{socket.gethostname()}\n")
        handle.flush()
        yield


def _lock(handle: IO[str], pause: float) -> bool:
    time.sleep(pause)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sign_of_life(folder: Path) -> None:
    """Tell other machines that the process that locked a run folder lives; see `is_worked_on`."""
    with contextlib.suppress(OSError):
        os.utime(folder / _LOCK)


def is_worked_on(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder. Nothing is changed.

    Not every network file system shows the locks of other machines: what one of them locked counts as worked on while
    its last sign of life is younger than `SILENCE`.
    """
    try:
        handle = (folder / _LOCK).open(encoding="utf-8")
    except OSError:
        return False
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
        fcntl.flock(handle, fcntl.LOCK_UN)
        host = handle.readline().strip()
        silent = time.time() - os.fstat(handle.fileno()).st_mtime
        return host not in ("", socket.gethostname()) and silent < SILENCE


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for `folder`. Where files cannot be locked, nothing is waited
    for."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def home() -> Path:
    """The folder for generated demonstrations: $RAYBC_HOME, else $XDG_CACHE_HOME/raybc, else ~/.cache/raybc."""
    if "RAYBC_HOME" in os.environ:
        return expanded(os.environ["RAYBC_HOME"], "RAYBC_HOME")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raybc"
