"""From what users call data to a store whose observations have the names of the task."""

from __future__ import annotations

from raybc.data import formats
from raybc.data.adapt import for_task
from raybc.data.episodes import EpisodeStore
from raybc.data.names import obtain, resolve


def load(
    name: str,
    task: str = "",
    *,
    images: bool | tuple[str, ...] = False,
    states: bool = False,
    download: bool = True,
) -> EpisodeStore:
    """The demonstrations called `name` (see `raybc.data.names`), for `task` (by default the one that the name tells).

    images, states: see `raybc.data.formats.read`. download: whether what is not on disk may be fetched.
    """
    found = resolve(name)
    path = obtain(name, download)
    task = task or found.task
    step_limit = 0
    if found.format == "d4rl":
        from raybc.registry import get_task

        step_limit = get_task(found.task).max_steps
    store = formats.read(path, format=found.format, images=images, states=states, step_limit=step_limit)
    return for_task(store, task)
