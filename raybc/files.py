"""Writing files so that they are whole or absent, and locking a run folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raybc.types import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        if temporary.is_dir():
            if path.exists():  # a folder cannot be replaced in one step; the old one is set aside first
                aside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.old"
                os.rename(path, aside)
                try:
                    os.rename(temporary, path)
                except BaseException:
                    os.rename(aside, path)
                    raise
                shutil.rmtree(aside)
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
    """Make `link` a symbolic link to `target` in the same folder, in one step."""
    temporary = link.parent / f".{link.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.symlink_to(target.name)
    os.replace(temporary, link)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON value, or `UserError` that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: expected a JSON file, found none") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None


def empty_folder(folder: Path) -> None:
    """Delete what is in a run folder, except the lock that this process holds."""
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def free_space_for(folder: Path, megabytes: int) -> None:
    """Refuse to start where there is clearly no room."""
    probe = folder
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free // 2**20
    if free < megabytes:
        raise UserError(
            f"{folder}: expected at least {megabytes} MB of free disk, got {free} MB; free some or use --out"
        )


@contextlib.contextmanager
def run_folder_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder: a second process on the same folder is refused. Released by the kernel on any death."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder with --out") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another process is writing to this run folder; wait, or use --out") from None
        yield


def home() -> Path:
    """Where generated demonstrations are kept: $RAYBC_HOME, else $XDG_CACHE_HOME/raybc, else ~/.cache/raybc."""
    if "RAYBC_HOME" in os.environ:
        return Path(os.environ["RAYBC_HOME"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raybc"
