"""Loading data by name, with the observations that a task expects."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

from raybc.data import formats
from raybc.data.adapt import for_task
from raybc.data.episodes import EpisodeStore
from raybc.data.fingerprints import Bar
from raybc.data.formats.options import Keys, ReadOptions
from raybc.data.names import obtain, resolve
from raybc.data.store import cache_folder, cached, matches
from raybc.envs.variant import with_limit
from raybc.registry import get_task
from raybc.types import UserError

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
    decode: bool = False,
    say: Callable[[str], None] | None = None,
    bar: Bar | None = None,
) -> EpisodeStore:
    """The demonstrations at `path`, with the observations of `task` ("": those that were recorded).

    Large data sets are memory-mapped from a converted copy in raybc's cache. images: as for `raybc.data.formats.read`;
    None: all, if the task observes any; then only those that it observes have to be readable. states: whether to read
    the simulator's states. skip_bad_episodes, image_size, keys: as for `ReadOptions`. memory: bytes above which a data
    set is large, on disk or decoded (0: `MAX_BYTES_IN_MEMORY`). decode: leave images in the videos of a LeRobot set and
    decode them when they are indexed, with half of `memory` as cache. say: called with a line about what decoding
    videos costs, where that takes long. bar: shows the progress of a conversion.
    """
    needed = None
    if images is None:
        needed = tuple(get_task(task).images) if task else ()
        images = bool(needed)
    format = formats.detect(path)
    large = format != "store" and size_of(path, format, bool(images)) > (memory or MAX_BYTES_IN_MEMORY)
    limit = step_limit_of(task, format)
    wanted = ReadOptions(images, states, limit, skip_bad_episodes, needed or None, image_size, keys)
    if decode:
        _check_decoding(path, format, wanted)
    if say is not None and images and format == "lerobot" and (decode or large):
        _explain(path, wanted, decode, large, memory // 2, say)
    if decode:
        from raybc.data.formats.lerobot_decoded import open_decoding

        return for_task(open_decoding(path, wanted, memory // 2), task)
    read = functools.partial(cached, bar=bar) if large else formats.read
    found = read(
        path, format=format, images=images, states=states, step_limit=limit, skip_bad_episodes=skip_bad_episodes,
        needed=needed or None, image_size=image_size, keys=keys,
    )  # fmt: skip
    return for_task(found, task)


def _check_decoding(path: Path, format: str, wanted: ReadOptions) -> None:
    """Refuse what cannot be decoded while training."""
    fault = ""
    if not wanted.images:
        fault = "expected a policy with images, got one without; choose an --encoder or leave --videos out"
    elif format != "lerobot":
        fault = f"expected a LeRobot set with videos, got the format {format}; leave --videos out"
    elif wanted.skip_bad_episodes:
        fault = "expected it without --skip_bad_episodes, which decodes everything first; leave one of them out"
    if fault:
        raise UserError(f"{path}: --videos decode: {fault}")


def _explain(
    path: Path, wanted: ReadOptions, decode: bool, large: bool, cache_bytes: int, say: Callable[[str], None]
) -> None:
    """Say what decoding the videos of a LeRobot set costs, unless they are converted already."""
    from raybc.data.formats.lerobot_decoded import VideoCost

    folder = cache_folder(path, "lerobot", wanted)
    if not decode and matches(folder):
        return
    with contextlib.suppress(UserError):  # no videos, or damaged ones: reading refuses them
        say(VideoCost.measured(path, wanted).describe(decode, folder.parent if large else None, cache_bytes))


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
