"""Formats of demonstrations. `read` recognises a file or folder by its contents; `FORMATS` lists the readers.

To add a format: a module with the members of `raybc.data.formats.base.Format`, and a line here.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import cast

from raybc import causes
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers, unknown
from raybc.data.formats.base import Format
from raybc.files import expanded
from raybc.strict import did_you_mean
from raybc.types import UserError

#: Name -> module, in the order in which they are tried: the more specific ones come first.
FORMATS = {
    "store": "raybc.data.store",
    "robosuite": "raybc.data.formats.robosuite",
    "libero": "raybc.data.formats.libero",
    "robomimic": "raybc.data.formats.robomimic",
    "aloha": "raybc.data.formats.aloha",
    "d4rl": "raybc.data.formats.d4rl",
    "ogbench": "raybc.data.formats.ogbench",
    "episode_ends": "raybc.data.formats.episode_ends",
    "lerobot": "raybc.data.formats.lerobot",
    "minari": "raybc.data.formats.minari",
    "rlds": "raybc.data.formats.rlds",
}


NO_KEYS = base.Keys()


def get(name: str) -> Format:
    """The reader called `name`. Raises `UserError`, with similar names, for unknown ones."""
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}: {did_you_mean(name, FORMATS)}")
    return cast("Format", importlib.import_module(FORMATS[name]))


def detect(path: Path) -> str:
    """The name of the format of a file or folder. Raises `UserError`, with a list of the known formats, for others."""
    found = causes.missing(path)
    if found and found != "got a folder":
        raise UserError(
            f"{path}: expected demonstrations, {found.replace('found none', 'found no such file or folder')}"
        )
    for name in FORMATS:
        if get(name).matches(path):
            return name
    text, listed = unknown.explain(path, _matching)
    looks = "".join(f"\n  {name}: {get(name).DESCRIPTION}" for name in FORMATS)
    raise UserError(f"{path}: {text} Known formats:{looks}" if listed else f"{path}: {text.removesuffix('.')}")


def _matching(path: Path) -> str:
    return next((name for name in FORMATS if get(name).matches(path)), "")


def count(path: Path, format: str) -> int | None:
    """Number of episodes, where the format knows it without reading observations or actions; None elsewhere, and for
    damaged data (reading them raises)."""
    chosen = get(format)
    if not hasattr(chosen, "count"):
        return None
    try:
        with containers.readable(path, format):
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
    skip_bad_episodes: bool = False,
    needed: tuple[str, ...] | None = None,
    image_size: tuple[int, int] | None = None,
    keys: base.Keys = NO_KEYS,
) -> EpisodeStore:
    """The demonstrations at `path`, in memory, or memory-mapped from a converted store.

    format: a key of `FORMATS`; "" to recognise it. images: no images, all of them, or those of these names. states:
    whether to read the simulator's states. The others: see `base.ReadOptions`. Raises `UserError` with file, episode
    and key for what is missing, damaged or inconsistent.
    """
    path = expanded(path)
    chosen = get(format or detect(path))
    if hasattr(chosen, "open_store") and image_size is None:  # needs no copy in memory
        if keys.action:
            raise UserError(f"{path}: --action_key: the format {chosen.NAME} has one action; leave it out")
        found = cast("EpisodeStore", chosen.open_store(path))
        obs = {name: found.obs[name] for name in keys.chosen(found.obs, str(path))}
        return dataclasses.replace(found, obs=obs, checked=True) if keys.observations else found
    wanted = base.ReadOptions(images, states, step_limit, skip_bad_episodes, needed, image_size, keys)
    return base.collect(chosen, path, wanted)
