"""LeRobotDataset v2.1 and v3.0: `meta/info.json`, frames in parquet, images in mp4 files or in the parquet.

https://huggingface.co/docs/lerobot/lerobot-dataset-v3. Observations lose the prefix `observation.` (and `images.`), so
`observation.state` is `state` (`lerobot_names`: also openpi's names). `next.reward`, `next.done` and `next.success` are
rewards, terminals and success. The statistics in `meta/` are not used: normalisation is fitted on what is trained on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raybc.causes import expect_file
from raybc.data.formats import lerobot_names
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions, read_episode
from raybc.data.formats.lerobot_frames import VideoUse, frame_faults, split_of, uses_of
from raybc.data.formats.lerobot_meta import INFO, EpisodeMeta, Meta, inside, table_of
from raybc.data.formats.lerobot_write import write_store
from raybc.data.formats.odd import ADVICE
from raybc.data.videos import MoreBits, Video, decode_image, more_bits_in
from raybc.files import read_json
from raybc.types import UserError

__all__ = ["DESCRIPTION", "NAME", "VideoUse", "about", "matches", "parts", "write_store"]

NAME = "lerobot"
#: Bounds on what a description may declare.
MOST_FRAMES, MOST_PIXELS = 10**10, 10**5
DESCRIPTION = "a folder with meta/info.json of LeRobot (codebase_version v2.1 or v3.0)"


def video_uses(path: Path) -> list[VideoUse]:
    """The videos of a data set and the frames of its episodes in them, as `meta/` describes them."""
    return uses_of({place: (e.length, e.videos) for place, e in enumerate(Meta(path).episodes())})


def described(path: Path) -> str:
    """Robot, frame rate and cameras of a data set, for people."""
    found = Meta(path)
    cameras = {n: f.get("shape") for n, f in found.features.items() if f["dtype"] in lerobot_names.IMAGE_TYPES}
    sizes = [f"{n} {' x '.join(map(str, shape))}" for n, shape in cameras.items() if isinstance(shape, list)]
    robot = found.info.get("robot_type") or "not named"
    return f"robot {robot}, {found.fps:g} Hz, cameras: {', '.join(sizes) or 'none'}"


def matches(path: Path) -> bool:
    """Whether `path` is a folder with LeRobot's meta/info.json."""
    try:
        return "codebase_version" in read_json(path / INFO)
    except (UserError, OSError, TypeError):
        return False


def count(path: Path) -> int:
    """Number of episodes, as meta/info.json declares it."""
    return Meta(path).total_episodes


def decoded_bytes(path: Path) -> int:
    """Bytes of all images once they are decoded, as `meta/info.json` declares them."""
    found = Meta(path)
    frames = int(found.number("total_frames", int, 0, MOST_FRAMES)) if "total_frames" in found.info else 0
    images = [feature for feature in found.features.values() if feature["dtype"] in ("video", "image")]
    return sum(frames * _pixels(feature.get("shape")) for feature in images)


def _pixels(shape: object) -> int:
    """Numbers of one image of a declared shape; 0 where it is none."""
    if not isinstance(shape, list) or len(shape) != 3:
        return 0
    sizes = [n for n in shape if isinstance(n, int) and 0 < n < MOST_PIXELS]
    return math.prod(sizes) if len(sizes) == len(shape) else 0


def about(path: Path) -> DatasetInfo:
    """The splits and the frame rate of meta/info.json."""
    found = Meta(path)
    numbers = np.array([episode.number for episode in found.episodes()], np.int64)
    splits = {}
    for name, text in (found.info.get("splits") or {}).items():
        splits[name] = split_of(str(text), numbers, f"{path / INFO}: splits: {name}")
    return DatasetInfo(splits=splits, frequency=found.fps)


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    found = Meta(path)
    found.action = lerobot_names.action_of(found.features, str(path / INFO), wanted.keys.action)
    episodes, tasks = found.episodes(), found.tasks()
    total = found.total_episodes
    if len(episodes) != total:
        raise UserError(f"{path / INFO}: total_episodes: expected {total} episodes, meta/ describes {len(episodes)}")
    if not episodes:
        raise UserError(f"{path}: expected at least one episode, meta/ describes none")
    names = names_of(found, episodes, wanted)
    reader = _Reader(found, names, tasks, frame_faults(uses_of({e.number: (e.length, e.videos) for e in episodes})))
    for episode in episodes:
        yield read_episode(f"episode {episode.number}", wanted, functools.partial(reader.read, episode))


def names_of(found: Meta, episodes: list[EpisodeMeta], wanted: ReadOptions) -> dict[str, str]:
    """Feature -> name of the observation here, of those to read. Raises `UserError` for images that are requested by
    name and cannot be read."""
    names = _observations(found.features, wanted, found.root)
    _leave_out_deep(names, found, episodes, wanted)
    return names


class _Reader:
    """Reads episode after episode. Tables and videos stay open until an episode needs others."""

    def __init__(
        self, found: Meta, names: Mapping[str, str], tasks: Mapping[int, str], faults: Mapping[tuple[str, int], str]
    ) -> None:
        """
        Args:
            found: the contents of `meta/`.
            names: feature -> observation, of those to read.
            tasks: task_index -> instruction.
            faults: (feature, episode number) -> what is wrong with its frames.
        """
        self._set, self._names, self._tasks, self._faults = found, names, tasks, faults
        known = (*names, found.action, "next.reward", "next.done", found.success)
        columns = [n for n in found.features if n in known and found.features[n]["dtype"] != "video"]
        self._columns = [*columns, "episode_index", "task_index"]
        self._videos: dict[str, Video] = {}
        self._table: _Table | None = None
        self._file = Path()

    def read(self, episode: EpisodeMeta) -> EpisodeChunk:
        where = f"{self._set.root}: episode {episode.number}"
        if self._table is None or self._file != episode.data:
            self._table = _Table(table_of(episode.data, self._columns), episode.data)
            self._file = episode.data
        table = self._table
        rows = table.rows(episode)
        obs = {}
        for feature, name in self._names.items():
            declared = self._set.features[feature]
            if declared["dtype"] == "video":
                if (feature, episode.number) in self._faults:
                    raise UserError(f"{where}: {feature}: {self._faults[feature, episode.number]}; {ADVICE}")
                frames = episode.videos[feature]
                obs[name] = self._video(feature, frames.path).read(frames.first, episode.length)
            elif declared["dtype"] == "image":
                cells = table.column(feature, rows)
                obs[name] = _images(cells, self._set.root, f"{where}: {feature}", lerobot_names.is_grey(declared))
            else:
                obs[name] = table.numeric(feature, rows, where)
        number = table.numeric("task_index", rows, where)[0]
        if int(number) not in self._tasks:
            raise UserError(f"{where}: task_index: expected one of {sorted(self._tasks)}, got {number}")
        flags = ("reward", "done")
        optional = {n: table.numeric(f"next.{n}", rows, where) for n in flags if f"next.{n}" in self._columns}
        marked = self._set.success in self._columns
        success = table.numeric(self._set.success, rows, where) if marked else None
        return EpisodeChunk(
            name=f"episode {episode.number}",
            obs=obs,
            actions=table.numeric(self._set.action, rows, where).reshape(episode.length, -1),
            rewards=optional["reward"].reshape(-1) if "reward" in optional else None,
            terminals=optional["done"].reshape(-1) if "done" in optional else None,
            tasks=(self._tasks[int(number)],),
            success=() if success is None else (bool(success.any()),),
        )

    def _video(self, feature: str, file: Path) -> Video:
        if feature not in self._videos or self._videos[feature].path != file:
            if feature in self._videos:
                self._videos.pop(feature).close()
            self._videos[feature] = Video(file, self._set.fps, lerobot_names.is_grey(self._set.features[feature]))
        return self._videos[feature]


def _leave_out_deep(names: dict[str, str], found: Meta, episodes: list[EpisodeMeta], wanted: ReadOptions) -> None:
    """Remove images of more than 8 bits, as the first episode has them, from `names`."""
    first = next((e for e in episodes if e.length), episodes[0])
    for feature in [f for f in names if found.features[f]["dtype"] in ("video", "image")]:
        if found.features[feature]["dtype"] == "video":
            deep = more_bits_in(first.videos[feature].path)
        else:
            deep = _deep_image(first, feature, found.root)
        if deep:
            wanted.leave_out(names.pop(feature), deep, str(found.root))


def _deep_image(episode: EpisodeMeta, feature: str, root: Path) -> str:
    try:
        _images(table_of(episode.data, [feature])[feature].slice(0, 1), root, feature)
    except MoreBits as error:
        return str(error).split("got ")[-1]
    except UserError:
        pass  # reading the episode refuses it
    return ""


def _observations(features: Mapping[str, Mapping[str, Any]], wanted: ReadOptions, path: Path) -> dict[str, str]:
    """Feature -> name of the observation here, of those to read."""
    for feature, declared in features.items():
        if declared["dtype"] == "string" and feature.startswith("observation."):
            wanted.remarks.note("text", feature.removeprefix("observation."), "not read: text is no observation")
    names: dict[str, str] = {}
    known = lerobot_names.observations_of(features)
    known |= {key: key for key in wanted.keys.observations if key in features and key not in known.values()}
    for feature, name in known.items():
        declared = features[feature]
        if declared["dtype"] not in lerobot_names.IMAGE_TYPES:
            names[feature] = name
        elif wanted.image(name) and lerobot_names.is_depth(declared):
            wanted.leave_out(name, "depth (is_depth_map)", str(path))
        elif wanted.image(name):
            names[feature] = name
    return names


class _Table:
    """A parquet file and the rows of its episodes."""

    def __init__(self, table: Any, path: Path) -> None:
        self._table, self._path = table, path
        self._episode = np.asarray(table["episode_index"].to_numpy())
        if np.any(np.diff(self._episode) < 0):
            raise UserError(f"{path}: episode_index: expected episodes in order")

    def rows(self, episode: EpisodeMeta) -> slice:
        first, end = np.searchsorted(self._episode, [episode.number, episode.number + 1])
        where = f"{self._path}: episode {episode.number}"
        if not episode.length and end == first:
            raise UserError(f"{where}: expected at least one step, got none (length 0 in meta/); {ADVICE}")
        if end - first != episode.length:
            raise UserError(f"{where}: expected {episode.length} steps as meta/ says, got {end - first}")
        return slice(int(first), int(end))

    def column(self, name: str, rows: slice) -> Any:
        return self._table[name].slice(rows.start, rows.stop - rows.start)

    def numeric(self, name: str, rows: slice, where: str) -> np.ndarray:
        """A column of numbers (n,), or of lists of equal length (n, size). Raises `UserError` for others."""
        column = self.column(name, rows).combine_chunks()
        shape = [len(column)]
        while hasattr(column, "flatten") and "list" in str(column.type):
            if column.null_count:
                raise UserError(f"{where}: {name}: expected numbers, got empty cells")
            flat = column.flatten()
            size, rest = divmod(len(flat), len(column)) if len(column) else (0, 0)
            if rest or (not str(column.type).startswith("fixed") and np.any(np.diff(column.offsets) != size)):
                raise UserError(f"{where}: {name}: expected lists of one length")
            shape.append(size)
            column = flat
        if column.null_count:
            raise UserError(f"{where}: {name}: expected numbers, got empty cells")
        array = np.asarray(column.to_numpy(zero_copy_only=False))
        if array.dtype.kind not in "fiub":
            raise UserError(f"{where}: {name}: expected numbers, got {column.type}")
        return array.reshape(shape[0], -1) if len(shape) > 1 else array


def _images(column: Any, root: Path, where: str, grey: bool = False) -> np.ndarray:
    images = []
    for cell in column.to_pylist():
        if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
            raise UserError(f"{where}: expected images with bytes or a path, got {type(cell).__name__}")
        data = cell.get("bytes")
        if not data:
            file = inside(root, str(cell["path"]), where)
            expect_file(file, f"the image of {where}")
            data = file.read_bytes()
        images.append(decode_image(data, where, 1 if grey else 3))
    if any(p.shape != images[0].shape for p in images):
        raise UserError(f"{where}: expected images of one size, got {sorted({p.shape for p in images})}")
    return np.stack(images)
