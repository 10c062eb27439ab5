"""`raybc.read`: demonstrations as the commands read them."""

from __future__ import annotations

from raybc.api.calls import Data, called, path_of
from raybc.api.datasets import Dataset
from raybc.data.load import load
from raybc.data.names import obtain


def read(data: Data, task: str = "", *, images: bool | tuple[str, ...] | None = None, download: bool = True) -> Dataset:
    """Read demonstrations.

    Args:
        data: a path in any known format, a published name, or an object with a `path`.
        task: compute the observations of this task from what was recorded (default: that of a published name; else the
            observations are those that were recorded).
        images: whether to read images, or the names of those to read (default: those that the task observes).
        download: whether data that are not on this machine may be downloaded.

    Raises `UserError` for unknown names, data that cannot be had, and damaged files.
    """
    with called():
        name = path_of(data, "data")
        return Dataset(obtain(name, download), load(name, task, images=images, download=download), name)
