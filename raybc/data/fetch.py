"""Downloading a data set to its place, wherever it is published."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterator
from pathlib import PurePosixPath

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

from raybc.data.dataset import Dataset
from raybc.data.download import OnProgress, download, unpack
from raybc.data.hub import fetch_repository
from raybc.files import run_folder_lock
from raybc.notebook import progress_of
from raybc.types import UserError


@contextlib.contextmanager
def _progress_bar(name: str) -> Iterator[OnProgress]:
    """A bar with the bytes so far and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with progress_of(*columns, transient=True) as progress:
        bar = progress.add_task(f"downloading {name}", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def fetch(dataset: Dataset) -> None:
    """Download a data set to `dataset.path`, with a progress bar.

    Raises `Unreachable` where a server does not answer or has no such file, `UserError` where what was sent is damaged.
    """
    folder = dataset.path.parent
    with run_folder_lock(folder):
        with _progress_bar(dataset.name) as on_progress:
            if dataset.repository:
                fetch_repository(dataset, on_progress)
            else:
                # `dataset.path` comes first and is downloaded last: where it is, the others are.
                for url in reversed(dataset.urls):
                    download(url, folder / _file_name(url), on_progress)
        if dataset.archive:
            archive = folder / _file_name(dataset.urls[0])
            unpack(archive, folder)
            archive.unlink()
    if not dataset.present():
        raise UserError(f"{dataset.source}: expected {dataset.path.name} in what was downloaded, found none")


def _file_name(url: str) -> str:
    return PurePosixPath(urllib.parse.urlsplit(url).path).name
