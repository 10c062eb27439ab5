"""Images of a few episodes, reduced, as JPEG files: what a page shows of a data set with images.

Only the chosen frames are held in memory. Frames of LeRobot's videos and of converted sets are read one by one; other
formats are read episode by episode, completely where they are small, else only their first episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raybc.data import formats, store
from raybc.data.formats import base, lerobot, lerobot_names
from raybc.data.formats.base import ReadOptions
from raybc.data.formats.images import is_image
from raybc.data.formats.lerobot_decoded import frames_of
from raybc.data.formats.lerobot_meta import Meta
from raybc.data.load import size_of
from raybc.data.scan import Source
from raybc.data.videos import encode_jpeg, resized

#: Episodes and frames of each that are shown, and cameras.
EPISODES, FRAMES, CAMERAS = 6, 8, 6
#: Longest edge of a frame in pixels.
EDGE = 192
#: Larger data sets, decoded, are not read to their end for images.
MAX_BYTES = 2**30


@dataclass(frozen=True)
class Still:
    """One frame."""

    step: int
    """Step of the episode."""
    jpeg: bytes
    """The image, reduced to `EDGE`."""


@dataclass(frozen=True)
class Stills:
    """Frames of a few episodes."""

    sizes: Mapping[str, tuple[int, ...]]
    """Camera -> height, width and channels in the data, of all cameras."""
    frames: Mapping[int, Mapping[str, tuple[Still, ...]]]
    """Episode -> camera -> frames from its first to its last step; of at most `CAMERAS` cameras."""


def stills(source: Source, lengths_E: np.ndarray, chosen: np.ndarray, names: tuple[str, ...] = ()) -> Stills:
    """Frames of the images of a data set; without any where it has none.

    Args:
        source: the data set.
        lengths_E: steps of each episode.
        chosen: the episodes to show where any can be read, else the first ones are.
        names: cameras to show; () for all.

    Raises `UserError` for images that cannot be read.
    """
    wanted = ReadOptions(images=names or True, keys=source.keys)
    shown = _evenly(chosen, EPISODES)
    found: dict[int, dict[str, tuple[Still, ...]]] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    for episode, images in _episodes(source, wanted, shown, lengths_E):
        for name, array in images.items():
            sizes[name] = tuple(int(n) for n in array.shape[1:])
        kept = dict(list(images.items())[:CAMERAS])
        if kept:
            found[episode] = {name: _frames(array) for name, array in kept.items()}
    return Stills(sizes, found)


def _evenly(numbers: np.ndarray, most: int) -> np.ndarray:
    return np.unique(numbers[np.linspace(0, len(numbers) - 1, most).round().astype(np.int64)])


def _frames(images: Any) -> tuple[Still, ...]:
    """images: uint8 (n, H, W, C), an array or `LazyImages`."""
    found = []
    for step in np.unique(np.linspace(0, len(images) - 1, FRAMES).round().astype(np.int64)).tolist():
        image = np.asarray(images[step : step + 1])
        height, width = image.shape[1:3]
        scale = min(1.0, EDGE / max(height, width))
        image = resized(image, max(1, round(height * scale)), max(1, round(width * scale)))
        found.append(Still(step, encode_jpeg(image[0])))
    return tuple(found)


def _episodes(
    source: Source, wanted: ReadOptions, shown: np.ndarray, lengths_E: np.ndarray
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, camera -> uint8 (n, H, W, C)) of the episodes to show; images may be decoded when they are indexed."""
    if source.format == store.NAME:
        data, ends = store.open_store(source.path), np.cumsum(lengths_E)
        chosen = source.keys.chosen(data.obs, str(source.path))
        cameras = [name for name in data.images if name in chosen and wanted.image(name)]
        for episode in shown.tolist():
            rows = slice(int(ends[episode] - lengths_E[episode]), int(ends[episode]))
            yield episode, {name: data.obs[name][rows] for name in cameras}
    elif source.format == lerobot.NAME and _all_in_videos(source, wanted):
        yield from _of_videos(source, wanted, shown)
    else:
        yield from _in_order(source, wanted, shown)


def _all_in_videos(source: Source, wanted: ReadOptions) -> bool:
    meta = Meta(source.path)
    kinds = {
        meta.features[feature]["dtype"]
        for feature, name in lerobot_names.observations_of(meta.features).items()
        if meta.features[feature]["dtype"] in lerobot_names.IMAGE_TYPES and wanted.image(name)
    }
    return kinds == {"video"}


def _of_videos(source: Source, wanted: ReadOptions, shown: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    meta = Meta(source.path)
    episodes = meta.episodes()
    names = lerobot.names_of(meta, episodes, wanted)
    chosen = source.keys.observations or tuple(names.values())
    cameras = {f: name for f, name in names.items() if meta.features[f]["dtype"] == "video" and name in chosen}
    for episode in shown.tolist():  # only their files are opened
        yield episode, {name: frames_of(meta, feature, [episodes[episode]]) for feature, name in cameras.items()}


def _in_order(source: Source, wanted: ReadOptions, shown: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    if size_of(source.path, source.format, images=True) > MAX_BYTES:
        shown = np.arange(len(shown))
    number, left = 0, set(shown.tolist())
    for part in base.parts_of(formats.get(source.format), source.path, wanted):
        lengths = part.lengths or (len(part.actions),)
        end = 0
        for length in lengths:
            if number in left:
                rows = slice(end, end + length)
                images = {k: v[rows] for k, v in part.obs.items() if is_image(v) and wanted.image(k)}
                yield number, images
            number, end = number + 1, end + length
        if number > max(left):
            return
