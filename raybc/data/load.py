"""From what users call data to a store whose observations have the names of the task."""

from __future__ import annotations

from pathlib import Path

from raybc.data import formats
from raybc.data.adapt import for_task
from raybc.data.episodes import EpisodeStore
from raybc.data.names import obtain, resolve
from raybc.data.store import cached
from raybc.registry import get_task

#: Bytes from which on data are converted once and mapped afterwards, instead of read into the memory of every process.
LARGE = 256 * 2**20


def load(
    name: str,
    task: str = "",
    *,
    images: bool | tuple[str, ...] | None = None,
    states: bool = False,
    download: bool = True,
) -> EpisodeStore:
    """The demonstrations called `name` (see `raybc.data.names`), for `task` (by default the one that the name tells).

    images: as for `read_for`. states: see `raybc.data.formats.read`. download: whether what is not on disk may be
    fetched.
    """
    return read_for(obtain(name, download), task or resolve(name).task, images=images, states=states)


def read_for(
    path: Path, task: str, *, images: bool | tuple[str, ...] | None = None, states: bool = False
) -> EpisodeStore:
    """The demonstrations at `path`, for `task` ("": as they are). Large ones are memory-mapped from a converted copy in
    raybc's cache. images: see `raybc.data.formats.read`; None: if the task observes any."""
    if images is None:
        images = bool(task and get_task(task).images)
    format = formats.detect(path)
    large = format != "store" and size_on_disk(path) > LARGE
    read = cached if large else formats.read
    limit = step_limit_of(task, format)
    return for_task(read(path, format=format, images=images, states=states, step_limit=limit), task)


def step_limit_of(task: str, format: str) -> int:
    """What `ReadOptions.step_limit` is for data of `format` that were recorded in `task` ("": not known); 0 for formats
    that say themselves where an episode was cut off."""
    if format != "d4rl" or not task:
        return 0
    return get_task(task).max_steps


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else (path,)
    return sum(p.stat().st_size for p in files)
