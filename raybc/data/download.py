"""Downloads that resume where they broke off, and archives that stay in their folder.

A file is called `.NAME.part` until it is complete; then it is renamed. Only its size is checked here: the servers of
D4RL, OGBench and Diffusion Policy publish no checksums.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from raybc.files import read_json, replacing, write_json
from raybc.types import UserError

#: Attempts without progress before a download is given up.
MAX_ATTEMPTS = 4
#: Seconds to wait for an answer.
TIMEOUT = 30.0
#: Seconds to wait after the first failed attempt; after the second it is twice that, and so on.
RETRY_PAUSE = 1.0
#: Bytes to read from the server at a time.
BYTES_PER_READ = 1 << 20

#: Called with the bytes so far and the bytes of the whole file (None: unknown).
OnProgress = Callable[[int, int | None], None]


class Unreachable(Exception):
    """A server cannot be reached or has no such file; nothing is wrong with what is on disk."""


@dataclass(frozen=True)
class _Answer:
    """What a server says about a file before it sends the contents."""

    status: int
    """HTTP status: 200 for the whole file, 206 for the rest of it."""
    total: int | None
    """Bytes of the whole file; None where the server does not say."""
    tag: str
    """Changes with the contents of the file; "" where the server has no such tag."""
    response: Any
    """The open response of urllib."""


def _open(url: str, first: int, tag: str, headers: Mapping[str, str]) -> _Answer:
    """Request the bytes from `first` on if the file still has `tag`, else the whole file."""
    request = urllib.request.Request(url, headers={"User-Agent": "raybc", "Accept-Encoding": "identity"})
    for name, value in headers.items():
        request.add_unredirected_header(name, value)  # a token is for the server that was asked, not for its CDN
    if first:
        request.add_header("Range", f"bytes={first}-")
        request.add_header("If-Range", tag)
    # `urlopen` would keep the proxies of its first call in this process.
    response = urllib.request.build_opener().open(request, timeout=TIMEOUT)
    said = response.headers
    total = int(said["Content-Length"]) if said["Content-Length"] else None
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", said.get("Content-Range", ""))
        if match is None or int(match[1]) != first:
            raise Unreachable(f"{url}: expected the bytes from {first} on, got {said.get('Content-Range')!r}")
        total = int(match[2])
    etag = said.get("ETag") or ""
    # A weak tag does not promise the same bytes.
    tag = etag if etag and not etag.startswith("W/") else said.get("Last-Modified") or ""
    return _Answer(response.status, total, tag, response)


def download(
    url: str, target: Path, on_progress: OnProgress | None = None, headers: Mapping[str, str] | None = None
) -> None:
    """Download `url` to `target`, resuming what an earlier call, also of another process, left unfinished.

    headers: to send in addition, e.g. a token; not sent to servers that the first one redirects to.

    Raises `Unreachable` where the server does not answer, has no such file, or breaks off `MAX_ATTEMPTS` times in a row
    without sending anything new.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, state = target.parent / f".{target.name}.part", target.parent / f".{target.name}.part.json"
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(url, part, state, on_progress, headers or {})
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # the part is not (or no longer) the beginning of that file
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                raise Unreachable(f"{url}: {error.code} {error.reason}") from None
            failures, text = failures + 1, f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            text = str(getattr(error, "reason", "") or error) or type(error).__name__
        if failures >= MAX_ATTEMPTS:
            raise Unreachable(f"{url}: {text}")
        time.sleep(RETRY_PAUSE * failures)
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, target)
    state.unlink(missing_ok=True)


def _attempt(url: str, part: Path, state: Path, on_progress: OnProgress | None, headers: Mapping[str, str]) -> None:
    """Append what is missing to `part`. Raises where the connection breaks off."""
    first, tag = (part.stat().st_size if part.exists() else 0), ""
    if first and state.exists():
        before = read_json(state)
        tag = str(before.get("tag", "")) if before.get("url") == url else ""
    if not tag:
        first = 0  # nothing would tell whether the rest belongs to the same file
    answer = _open(url, first, tag, headers)
    with answer.response:
        if answer.status != 206:
            first = 0
        write_json(state, {"url": url, "tag": answer.tag})
        with part.open("r+b" if first else "wb") as handle:
            handle.seek(first)
            while data := answer.response.read(BYTES_PER_READ):
                handle.write(data)
                if on_progress is not None:
                    on_progress(handle.tell(), answer.total)
            size = handle.tell()
    if answer.total is not None and size != answer.total:
        raise ConnectionError(f"broke off after {size} of {answer.total} bytes")


def inside(name: str, where: str) -> PurePosixPath:
    """`name` as a relative path, or `UserError` that begins with `where` if it leaves its folder."""
    path = PurePosixPath(name)
    if not name or "\\" in name or "\0" in name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"{where}: expected files inside the folder, got {name!r}")
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip file into `folder`; its top-level members are renamed into place when all of it is unpacked.

    Raises `UserError` for damaged files and, before anything is written, for members that leave the folder and links.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                inside(member.filename, str(archive))
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise UserError(f"{archive}: expected files and folders, got the link {member.filename!r}")
            with replacing(folder / f"{archive.stem}.unpacked") as temporary:
                temporary.mkdir()
                file.extractall(temporary)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: not readable as zip (damaged or truncated): {error}") from None
    unpacked = folder / f"{archive.stem}.unpacked"
    top = [p for p in unpacked.iterdir() if p.name != "__MACOSX"]
    # `pusht.zip` holds the folder `pusht`, which is what `folder` is already called.
    within = top[0] if len(top) == 1 and top[0].is_dir() and top[0].name == folder.name else unpacked
    for path in within.iterdir():
        if not (folder / path.name).exists():
            os.rename(path, folder / path.name)
    shutil.rmtree(unpacked)
