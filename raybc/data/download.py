"""Downloads that go on where they broke off, and archives that stay in their folder.

A file is `.NAME.part` until it is whole and its checksum, where one is published, is right; then it is renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from raybc.data.names import Dataset, hub
from raybc.files import read_json, replacing, run_folder_lock, write_json
from raybc.types import UserError

#: Attempts without progress before a server is given up; seconds to wait for an answer and between attempts.
ATTEMPTS, TIMEOUT, PAUSE = 4, 30.0, 1.0
BLOCK = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")

OnProgress = Callable[[int, int | None], None]


class Unreachable(Exception):
    """The server cannot be reached or has no such file; nothing is wrong with what is on disk."""


@dataclass(frozen=True)
class _Answer:
    """What a server says of a file before its contents. total: bytes of the whole file."""

    status: int
    total: int | None
    tag: str
    sha256: str
    response: Any


class _Redirects(urllib.request.HTTPRedirectHandler):
    """The Hugging Face hub names the sha256 of a file in its redirection to where the file lies."""

    def __init__(self) -> None:
        self.sha256 = ""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        tag = str(headers.get("X-Linked-ETag", "")).strip('"')
        self.sha256 = tag if SHA256.fullmatch(tag) else self.sha256
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _ask(url: str, first: int, tag: str) -> _Answer:
    """Ask for the bytes from `first` on, if the file is still the one of `tag`."""
    request = urllib.request.Request(url, headers={"User-Agent": "raybc", "Accept-Encoding": "identity"})
    if first:
        request.add_header("Range", f"bytes={first}-")
        request.add_header("If-Range", tag)
    redirects = _Redirects()
    response = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT)
    headers = response.headers
    total = int(headers["Content-Length"]) if headers["Content-Length"] else None
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        if match is None or int(match[1]) != first:
            raise Unreachable(f"{url}: expected the bytes from {first} on, got {headers.get('Content-Range')!r}")
        total = int(match[2])
    sha256 = redirects.sha256 or str(headers.get("X-Linked-ETag", "")).strip('"')
    etag = headers.get("ETag") or ""
    # A weak tag does not promise the same bytes.
    tag = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified") or ""
    return _Answer(response.status, total, tag, sha256 if SHA256.fullmatch(sha256) else "", response)


def download(url: str, target: Path, sha256: str = "", on_progress: OnProgress | None = None) -> None:
    """Fetch `url` to `target`, or go on with what an earlier attempt left. on_progress: bytes so far, of how many.

    Raises `Unreachable` where the server does not answer, `UserError` where what it sent has another checksum.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, said = target.parent / f".{target.name}.part", target.parent / f".{target.name}.part.json"
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            published = _attempt(url, part, said, on_progress)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # the part is not (or no longer) a part of that file
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                raise Unreachable(f"{url}: {error.code} {error.reason}") from None
            failures, text = failures + 1, f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            text = str(getattr(error, "reason", "") or error) or type(error).__name__
        if failures >= ATTEMPTS:
            raise Unreachable(f"{url}: {text}")
        time.sleep(PAUSE * failures)
    _check(part, sha256 or published, url)
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, target)
    said.unlink(missing_ok=True)


def _attempt(url: str, part: Path, said: Path, on_progress: OnProgress | None) -> str:
    """Append what is missing to `part`; returns the published sha256, or "". Raises where it breaks off."""
    first, tag = (part.stat().st_size if part.exists() else 0), ""
    if first and said.exists():
        before = read_json(said)
        tag = str(before.get("tag", "")) if before.get("url") == url else ""
    if not tag:
        first = 0  # nothing would tell whether the rest belongs to the same file
    answer = _ask(url, first, tag)
    with answer.response:
        if answer.status != 206:
            first = 0
        write_json(said, {"url": url, "tag": answer.tag})
        with part.open("r+b" if first else "wb") as handle:
            handle.seek(first)
            while block := answer.response.read(BLOCK):
                handle.write(block)
                if on_progress is not None:
                    on_progress(handle.tell(), answer.total)
            size = handle.tell()
    if answer.total is not None and size != answer.total:
        raise ConnectionError(f"broke off after {size} of {answer.total} bytes")
    return answer.sha256


def _check(path: Path, sha256: str, url: str) -> None:
    if not sha256:
        return
    with path.open("rb") as handle:
        got = hashlib.file_digest(handle, "sha256").hexdigest()
    if got != sha256:
        path.unlink()
        raise UserError(f"{url}: expected a file with sha256 {sha256}, got {got}; it was deleted, try again")


@contextlib.contextmanager
def download_bar(name: str) -> Iterator[OnProgress]:
    """Shows how far a download is; gives what it is told with: (bytes, bytes of the whole file)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task(f"downloading {name}", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def fetch(dataset: Dataset, on_progress: OnProgress | None = None) -> None:
    """Download a data set to its place."""
    place = dataset.path.parent
    with run_folder_lock(place):
        if dataset.archive:
            archive = place / PurePosixPath(urllib.parse.urlsplit(dataset.urls[0]).path).name
            download(dataset.urls[0], archive, on_progress=on_progress)
            unpack(archive, place)
            archive.unlink()
        elif dataset.repository:
            _fetch_repository(dataset, on_progress)
        else:
            # The file that is looked for comes last: where it is, the others are.
            for url in reversed(dataset.urls):
                download(url, place / PurePosixPath(urllib.parse.urlsplit(url).path).name, on_progress=on_progress)
    if not dataset.present():
        raise UserError(f"{dataset.source}: expected {dataset.path.name} in what was downloaded, found none")


def _fetch_repository(dataset: Dataset, on_progress: OnProgress | None) -> None:
    """All files of a folder of the hub, by way of a folder beside the place, which is renamed when it is whole."""
    parts = dataset.path.with_name(f".{dataset.path.name}.parts")
    prefix = f"{dataset.folder}/" if dataset.folder else ""
    for entry in _listing(dataset):
        name = str(entry["path"]).removeprefix(prefix)
        target = parts / inside(name, dataset.source)
        sha256 = str((entry.get("lfs") or {}).get("oid", ""))
        if target.exists():
            continue
        url = f"{hub()}/datasets/{dataset.repository}/resolve/main/{urllib.parse.quote(str(entry['path']))}"
        download(url, target, sha256 if SHA256.fullmatch(sha256) else "", on_progress)
    os.rename(parts, dataset.path)


def _listing(dataset: Dataset) -> list[dict[str, Any]]:
    url = f"{hub()}/api/datasets/{dataset.repository}/tree/main"
    url += f"/{urllib.parse.quote(dataset.folder)}" if dataset.folder else ""
    url += "?recursive=true"
    files: list[dict[str, Any]] = []
    while url:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers={"User-Agent": "raybc"}), timeout=TIMEOUT
            ) as r:
                page, link = json.load(r), r.headers.get("Link", "")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{url}: {getattr(error, 'reason', '') or error}") from None
        files += [e for e in page if isinstance(e, dict) and e.get("type") == "file"]
        following = re.search(r'<([^>]+)>; rel="next"', link)
        url = following[1] if following else ""
    if not files:
        raise Unreachable(f"{dataset.source}: has no files")
    return files


def inside(name: str, where: str) -> PurePosixPath:
    """A relative path that stays in its folder, or `UserError`."""
    path = PurePosixPath(name)
    if not name or "\\" in name or "\0" in name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"{where}: expected files inside the folder, got {name!r}")
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip file into `folder`; what it holds at its top is renamed into place when all of it is there.

    Members that leave the folder, and links, are refused before anything is written.
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
