"""Loading data by name, with the observations that a task expects."""

from __future__ import annotations

from pathlib import Path

from raybc.data import formats
from raybc.data.adapt import for_task
from raybc.data.episodes import EpisodeStore
from raybc.data.formats.options import Keys
from raybc.data.names import obtain, resolve
from raybc.data.store import cached
from raybc.envs.variant import with_limit
from raybc.registry import get_task

#: Data sets with more bytes are converted once and memory-mapped, instead of read into the memory of every process.
MAX_BYTES_IN_MEMORY = 256 * 2**20


def load(
    name: str,
    task: str = "",
    *,
    images: bool | tuple[str, ...] | None = None,
    states: bool = False,
    download: bool = True,
) -> EpisodeStore:
    """The demonstrations called `name` (see `raybc.data.names`), for `task` (by default the one that the name implies).

    images, states: as for `read_for`. download: whether data that are not on disk may be downloaded. Raises `UserError`
    for unknown names, data that cannot be had, and whatever reading refuses.
    """
    return read_for(obtain(name, download), task or resolve(name).task, images=images, states=states)


def read_for(
    path: Path,
    task: str,
    *,
    images: bool | tuple[str, ...] | None = None,
    states: bool = False,
    skip_bad_episodes: bool = False,
    image_size: tuple[int, int] | None = None,
    keys: Keys = formats.NO_KEYS,
    memory: int = 0,
) -> EpisodeStore:
    """The demonstrations at `path`, with the observations of `task` ("": those that were recorded).

    Large data sets are memory-mapped from a converted copy in raybc's cache. images: as for `raybc.data.formats.read`;
    None: all, if the task observes any; then only those that it observes have to be readable. states: whether to read
    the simulator's states. skip_bad_episodes, image_size, keys: as for `ReadOptions`. memory: bytes above which a data
    set is large, on disk or decoded (0: `MAX_BYTES_IN_MEMORY`).
    """
    needed = None
    if images is None:
        needed = tuple(get_task(task).images) if task else ()
        images = bool(needed)
    format = formats.detect(path)
    large = format != "store" and size_of(path, format, bool(images)) > (memory or MAX_BYTES_IN_MEMORY)
    read = cached if large else formats.read
    limit = step_limit_of(task, format)
    found = read(
        path, format=format, images=images, states=states, step_limit=limit, skip_bad_episodes=skip_bad_episodes,
        needed=needed or None, image_size=image_size, keys=keys,
    )  # fmt: skip
    return for_task(found, task)


def step_limit_of(task: str, format: str) -> int:
    """`ReadOptions.step_limit` for data of `format` that were recorded in `task` ("": unknown); 0 for formats that mark
    where an episode was cut off."""
    if format != "d4rl" or not task:
        return 0
    return get_task(with_limit(task)[0]).max_steps  # of the recording, whatever an evaluation has


def size_of(path: Path, format: str, images: bool) -> int:
    """Bytes of a data set on disk or, if its images are read, of these in memory, whichever is more."""
    decoded = getattr(formats.get(format), "decoded_bytes", None)
    return max(size_on_disk(path), decoded(path) if images and decoded is not None else 0)


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else (path,)
    return sum(p.stat().st_size for p in files)
