"""Formats of demonstrations. `read` recognises a file or folder by its contents; `FORMATS` names the readers.

To add a format: a module with what `raybc.data.formats.base` lists, and a line here.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base
from raybc.data.formats.base import Format
from raybc.strict import did_you_mean
from raybc.types import UserError

#: Name -> module, in the order in which they are asked: those that look closer come first.
FORMATS = {
    "store": "raybc.data.store",
    "libero": "raybc.data.formats.libero",
    "robomimic": "raybc.data.formats.robomimic",
    "d4rl": "raybc.data.formats.d4rl",
    "ogbench": "raybc.data.formats.ogbench",
    "episode_ends": "raybc.data.formats.episode_ends",
    "lerobot": "raybc.data.formats.lerobot",
    "minari": "raybc.data.formats.minari",
    "rlds": "raybc.data.formats.rlds",
}


def get(name: str) -> Format:
    """The reader called `name`, or `UserError` with the near matches."""
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}: {did_you_mean(name, FORMATS)}")
    return cast("Format", importlib.import_module(FORMATS[name]))


def detect(path: Path) -> str:
    """The name of the format of a file or folder, or `UserError` that lists what was looked for."""
    if not path.exists():
        raise UserError(f"{path}: expected demonstrations, found no such file or folder")
    for name in FORMATS:
        if get(name).matches(path):
            return name
    start = base.magic(path)
    for mark, what in ((base.HDF5_MAGIC, "an HDF5"), (base.ZIP_MAGIC, "a zip")):
        if start.startswith(mark):
            hint = f" It begins as {what} file: it may be damaged or truncated."
            break
    else:
        hint = " The file is empty." if path.is_file() and not start else ""
    looks = "".join(f"\n  {name}: {get(name).DESCRIPTION}" for name in FORMATS)
    raise UserError(f"{path}: not in a format that is known.{hint} Looked for{looks}")


def count(path: Path, format: str) -> int | None:
    """How many episodes a set has, where its format tells that cheaply: without reading observations or actions. None
    elsewhere, and of damaged sets: these say so when they are read."""
    chosen = get(format)
    if not hasattr(chosen, "count"):
        return None
    try:
        with base.readable(path, format):
            return cast("int | None", chosen.count(path))
    except UserError:
        return None


def read(
    path: Path | str,
    *,
    format: str = "",
    images: bool | tuple[str, ...] = False,
    states: bool = False,
    step_limit: int = 0,
) -> EpisodeStore:
    """Demonstrations in memory, those of a converted store memory-mapped.

    format: a name of `FORMATS`; by default it is recognised. images: images to read: none, all, or those of these
    names. states: whether to read the simulator's states. step_limit: see `base.ReadOptions`. Raises `UserError` with
    file, episode and key for what is missing, damaged or inconsistent.
    """
    path = Path(path).expanduser()
    chosen = get(format or detect(path))
    if hasattr(chosen, "open_store"):  # needs no copy in memory
        return cast("EpisodeStore", chosen.open_store(path))
    return base.collect(chosen, path, base.ReadOptions(images, states, step_limit))
