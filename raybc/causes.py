"""Why a file cannot be read, where the cause is not damage: a git-lfs pointer, a lock, a web page, an archive, ...

Every phrase completes "PATH: ...", and says what to do.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from raybc.types import UserError

#: Bytes of a file that tell what it is; a tar archive has its mark at 257.
HEAD_BYTES = 1024
#: Endings of downloads that have not finished, by browsers, wget, aria2, huggingface_hub, rsync and raybc.
UNFINISHED = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp")
_ARCHIVES = (
    (b"PK\x03\x04", "a zip archive", "unzip"),
    (b"\xfd7zXZ\x00", "an xz archive", "tar xJf"),
    (b"BZh", "a bzip2 archive", "tar xjf"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "tar --zstd -xf"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    (b"Rar!", "a rar archive", "unrar x"),
)
_OTHERS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"PAR1", "a parquet file; a data set of LeRobot is the folder that holds meta/info.json"),
    (b"\x93NUMPY", "a single array of numpy (.npy)"),
    (b"#ROSBAG", "a ROS bag"),
    (b"\x89MCAP0", "an MCAP recording"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")
_ANSWERS = (b'{"error"', b'{"message"', b"Invalid username or password", b"Entry not found", b"Access to ")


def expect_file(path: Path, what: str, may_be_empty: bool = False) -> None:
    """Raise `UserError` unless `path` is a file that may be read and that is not empty or a stand-in for the real one.

    what: the kind of file, with its article, for messages. may_be_empty: whether no bytes are a valid file, too.
    """
    found = missing(path)
    if found:
        raise UserError(f"{path}: expected {what}, {found}")
    start = head(path)
    found = _stand_in(start)
    if found and (start or not may_be_empty):
        raise UserError(f"{path}: {found}")


def missing(path: Path) -> str:
    """Why `path` is not a file that can be opened ("found none"), and what to do; "" where it is one."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb"):
                return ""
    except FileNotFoundError:
        return _not_there(path)
    except OSError as error:
        return f"which {denied(path, error) or f'cannot be read ({error.strerror})'}"
    except ValueError:  # a path with a null byte
        return "found none"
    return "got a folder" if stat.S_ISDIR(mode) else "got neither a file nor a folder (a pipe, a socket or a device)"


def _not_there(path: Path) -> str:
    if path.is_symlink():
        target = os.readlink(path)
        if "/annex/objects/" in target:
            return "found a link of git-annex to contents that are not here: run git annex get"
        return f"found a link to {target}, which does not exist: restore it, or download the data again"
    parent = next((p for p in path.parents if p.is_symlink() and not p.exists()), None)
    if parent is not None:
        return f"found none: {parent} is a link to {os.readlink(parent)}, which does not exist"
    unfinished = next(_unfinished_beside(path), None)
    if unfinished is not None:
        return f"found only an unfinished download of it, {unfinished}: let it finish, or download the file again"
    return "found none"


def _unfinished_beside(path: Path) -> Iterator[Path]:
    """Unfinished downloads of the file `path`, next to it or where huggingface_hub keeps them."""
    try:
        names = sorted(p.name for p in path.parent.iterdir())
    except OSError:
        return
    for name in names:
        if name != path.name and name.lstrip(".").startswith(path.name) and name.endswith(UNFINISHED):
            yield path.parent / name
    yield from sorted((path.parent / ".cache" / "huggingface" / "download").glob("*.incomplete"))[:1]


def head(path: Path, count: int = HEAD_BYTES) -> bytes:
    """The first `count` bytes of a file; b"" where there is none, or where it may not be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            return b""
        with path.open("rb") as handle:
            return handle.read(count)
    except (OSError, ValueError):
        return b""


def _stand_in(start: bytes) -> str:
    """What a file that begins with `start` is in place of the real one; "" for any other content."""
    if not start:
        return "the file is empty (0 bytes): copy or download it again"
    if re.match(rb"version https?://(git-lfs\.github\.com|hawser\.github\.com)/spec", start):
        return "is a git-lfs pointer, not the file: run git lfs pull"
    if re.match(rb"[./\\]*(\.git)?[/\\]?annex[/\\]objects[/\\]", start):
        return "is a git-annex pointer, not the file: run git annex get"
    if start.startswith(b"# xet version"):
        return "is a git-xet pointer, not the file: install git-xet and run git lfs pull"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:16].lower().startswith(_PAGES):
        return "is a web page, not the file (a server answered the download with a page): download the file itself"
    if text.startswith(_ANSWERS):
        said = " ".join(text[:120].decode("utf-8", "replace").split())
        return f"is the answer of a server, not the file ({said}): download the file itself"
    if len(start) >= 512 and not start.strip(b"\0"):
        return "begins with zeros only: the download or copy of it has not finished; do that again"
    return ""


def cause(path: Path, error: BaseException | None = None, kind: bytes = b"") -> str:
    """Why reading the file `path` failed with `error`, where the file is not damaged; "" where no cause is known.

    kind: the first bytes of the kind of file that was expected.
    """
    if isinstance(error, OSError):
        found = denied(path, error)
        if found:
            return found
    if isinstance(error, MemoryError):
        return "there is not enough memory to read it"
    if path.is_dir():
        return ""
    found = missing(path)
    if found:
        return f"expected a file, {found}"
    start = head(path)
    found = _stand_in(start)
    if found:
        return found
    if path.name.endswith(UNFINISHED):
        return "is an unfinished download: let it finish, or download the file again"
    beside = next(_unfinished_beside(path), None)
    if beside is not None:
        return f"has not been downloaded completely ({beside.name} is next to it): let it finish, or download it again"
    return "" if kind and start.startswith(kind) else _another(path, start)


def denied(path: Path, error: OSError) -> str:
    """What the system refused when `path` was opened or read; "" for errors that say nothing of the kind."""
    text = str(error)
    if "unable to lock file" in text and error.errno not in (errno.EAGAIN, errno.EACCES):
        return "lies on a file system without locks: set the variable HDF5_USE_FILE_LOCKING=FALSE"
    if "unable to lock file" in text or error.errno == errno.EAGAIN:
        return "another process has it open for writing: wait until that has closed it"
    if "consistency flags" in text:
        return "has not been closed by the program that writes it: wait for that; if it crashed, run h5clear -s FILE"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"you may not read it{_owner(path)}: ask for the permission (chmod +r)"
    return {
        errno.ELOOP: "is a link that leads to itself",
        errno.ENAMETOOLONG: "the path is too long",
        errno.ENOTDIR: "lies below something that is a file and no folder",
        errno.EMFILE: "too many files are open in this process: raise the limit with ulimit -n",
        errno.ENFILE: "too many files are open on this machine",
        errno.EIO: "the disk cannot read it (input/output error)",
        errno.ESTALE: "the network disk has lost it: open it again",
        errno.ENOMEM: "there is not enough memory to read it",
    }.get(error.errno or 0, "")


def _owner(path: Path) -> str:
    try:
        return f" (it belongs to {path.owner()})"
    except (OSError, KeyError):
        return ""


def _another(path: Path, start: bytes) -> str:
    """What else a file that begins with `start` is."""
    if start[257:262] == b"ustar":
        return f"is a tar archive: unpack it (tar xf {path.name}) and name what was in it"
    if start.startswith(b"\x1f\x8b"):
        how = "tar xzf" if _unzipped(start)[257:262] == b"ustar" else "gunzip"
        return f"is compressed with gzip: unpack it ({how} {path.name}) and name what was in it"
    if start.startswith(b"PK\x03\x04") and any(name.endswith("data.pkl") for name in zip_names(path)):
        return "is a file of PyTorch (a pickle), which is never opened, since that could run code"
    for mark, what, how in _ARCHIVES:
        if start.startswith(mark):
            return f"is {what}: unpack it ({how} {path.name}) and name what was in it"
    if re.match(rb"\x80[\x02-\x05]", start):
        return "is a Python pickle, which is never opened, since that could run code"
    if start[4:8] == b"ftyp":
        return "is a video; a data set of LeRobot is the folder that holds meta/info.json"
    return next((f"is {what}" for mark, what in _OTHERS if start.startswith(mark)), "")


def zip_names(path: Path) -> list[str]:
    """The names of the members of a zip file; none for damaged and other files."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _unzipped(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(start, HEAD_BYTES)
    except zlib.error:
        return b""
