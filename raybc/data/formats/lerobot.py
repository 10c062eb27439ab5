"""LeRobotDataset v2.1 and v3.0: `meta/info.json`, frames in parquet, images in mp4 files or in the parquet.

https://huggingface.co/docs/lerobot/lerobot-dataset-v3. Observations lose the prefix `observation.` (and `images.`), so
`observation.state` is `state` (`lerobot_names`: also openpi's names). `next.reward`, `next.done` and `next.success` are
rewards, terminals and success. The statistics in `meta/` are not used: normalisation is fitted on what is trained on.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq

from raybc.causes import expect_file
from raybc.data.formats import containers, lerobot_names
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions, read_episode
from raybc.data.formats.lerobot_frames import Frames, VideoUse, frame_faults, split_of, uses_of
from raybc.data.formats.lerobot_write import write_store
from raybc.data.formats.odd import ADVICE
from raybc.data.videos import MoreBits, Video, decode_image, more_bits_in
from raybc.files import parse_json, read_json, read_text
from raybc.types import UserError

__all__ = ["DESCRIPTION", "NAME", "VideoUse", "about", "matches", "parts", "write_store"]

NAME = "lerobot"
DESCRIPTION = "a folder with meta/info.json of LeRobot (codebase_version v2.1 or v3.0)"
INFO = "meta/info.json"
#: A data set that declares more is damaged. The largest published ones have some hundred thousand.
MAX_EPISODES = 10**8
#: Numbers of episodes, tasks and frames are below.
MAX_NUMBER = 2**53
#: A placeholder of a path template, such as "{file_index:03d}"; str.format would also pad to gigabytes.
PLACEHOLDER = re.compile(r"\{(\w+)(:0?\d{0,2}d?)?\}")


@dataclass(frozen=True)
class _Episode:
    """One episode, as `meta/` describes it."""

    number: int
    """episode_index."""
    length: int
    """Steps."""
    data: Path
    """Its parquet file."""
    videos: Mapping[str, Frames]
    """Feature -> its frames in a video."""


class _Set:
    """The contents of `meta/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        info = read_json(root / INFO)
        if not isinstance(info, dict):
            raise UserError(f"{root / INFO}: expected a mapping, got {type(info).__name__}")
        self.info = info
        version = str(self.get("codebase_version", str))
        self.v3 = version.startswith("v3.")
        if not self.v3 and not version.startswith("v2."):
            raise UserError(f"{root / INFO}: codebase_version: expected v2.0, v2.1 or v3.0, got {version!r}")
        self.fps = float(self.number("fps", int | float, 1e-3, 1e6))
        self.total_episodes = int(self.number("total_episodes", int, 0, MAX_EPISODES))
        self.features: dict[str, dict[str, Any]] = self.get("features", dict)
        for name, feature in self.features.items():
            if not isinstance(feature, dict) or "dtype" not in feature:
                raise UserError(f"{root / INFO}: features: {name}: expected a mapping with dtype, got {feature!r}")
        self.action = ""  # `parts` looks it up, or takes the one that is chosen by hand
        self.success = lerobot_names.success_of(self.features)

    def get(self, key: str, kind: Any) -> Any:
        if not isinstance(self.info.get(key), kind):
            raise UserError(f"{self.root / INFO}: expected the key {key!r}, got {self.info.get(key)!r}")
        return self.info[key]

    def number(self, key: str, kind: Any, low: float, high: float) -> Any:
        value = self.get(key, kind)
        if isinstance(value, bool) or not low <= value <= high:
            raise UserError(f"{self.root / INFO}: {key}: expected a number from {low:g} to {high:g}, got {value!r:.80}")
        return value

    def file(self, template: str, **values: Any) -> Path:
        """A file of the data set, by the key of its path template in `info.json`. Raises `UserError` if it is outside
        the folder."""
        text = str(self.get(template, str))
        unknown = PLACEHOLDER.sub("", text)
        names = {name for name, _ in PLACEHOLDER.findall(text)}
        if "{" in unknown or "}" in unknown or not names <= set(values):
            expected = ", ".join(f"{{{name}}}" for name in values)
            raise UserError(f"{self.root / INFO}: {template}: not readable as a path of {expected}: {text!r}")
        try:
            return inside(self.root, text.format(**values), template)
        except ValueError as error:  # a number's format for the name of a camera
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.root / INFO}: {template}: not readable as a path: {text!r}") from None

    def episodes(self) -> list[_Episode]:
        return self._episodes_v3() if self.v3 else self._episodes_v2()

    def _videos(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature["dtype"] == "video"]

    def _episodes_v3(self) -> list[_Episode]:
        rows: list[dict[str, Any]] = []
        for path in sorted((self.root / "meta" / "episodes").glob("*/*.parquet")):
            table = _table(path, None)
            keep = [n for n in table.column_names if not n.startswith("stats/")]
            rows += table.select(keep).to_pylist()
        found = []
        for row in sorted(rows, key=lambda r: int(r["episode_index"])):
            try:
                videos = {}
                for key in self._videos():
                    at = {k: int(row[f"videos/{key}/{k}"]) for k in ("chunk_index", "file_index")}
                    first = round(float(row[f"videos/{key}/from_timestamp"]) * self.fps)
                    until = row.get(f"videos/{key}/to_timestamp")
                    declared = None if until is None else round(float(until) * self.fps)
                    videos[key] = Frames(self.file("video_path", video_key=key, **at), first, declared)
                at = {k: int(row[f"data/{k}"]) for k in ("chunk_index", "file_index")}
                length = int(row["length"])
                found.append(_Episode(int(row["episode_index"]), length, self.file("data_path", **at), videos))
            except (LookupError, TypeError, ValueError) as error:
                if isinstance(error, UserError):
                    raise
                where = f"{self.root}/meta/episodes: episode {row.get('episode_index')}"
                if isinstance(error, KeyError):
                    raise UserError(
                        f"{where}: expected the column {error.args[0]!r}, got {', '.join(sorted(row))}"
                    ) from None
                raise UserError(f"{where}: expected numbers, got {row}") from None
        return found

    def _episodes_v2(self) -> list[_Episode]:
        found = []
        for row in _lines(self.root / "meta" / "episodes.jsonl", ("episode_index", "length")):
            number = int(row["episode_index"])
            at = {"episode_chunk": number // max(1, int(self.get("chunks_size", int))), "episode_index": number}
            videos = {key: Frames(self.file("video_path", video_key=key, **at), 0) for key in self._videos()}
            found.append(_Episode(number, int(row["length"]), self.file("data_path", **at), videos))
        return sorted(found, key=lambda e: e.number)

    def tasks(self) -> dict[int, str]:
        """task_index -> instruction."""
        if not self.v3:
            rows = _lines(self.root / "meta" / "tasks.jsonl", ("task_index", "task"))
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        path = self.root / "meta" / "tasks.parquet"
        table = _table(path, None)
        words = next((n for n in ("task", "__index_level_0__") if n in table.column_names), None)
        if words is None or "task_index" not in table.column_names:
            raise UserError(f"{path}: expected the columns task_index and task, got {table.column_names}")
        pairs = zip(table["task_index"].to_pylist(), table[words].to_pylist(), strict=True)
        return {int(number): str(text) for number, text in pairs}


def inside(root: Path, name: str, what: str) -> Path:
    """The file `name` of the folder `root`. Raises `UserError` (about `what`) for an absolute path and for one with
    "..". Links are followed: the cache of the Hugging Face hub consists of them."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\0" in name:
        raise UserError(f"{root}: {what}: expected a file of this folder, got {root / name}")
    return root / relative


def _lines(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The mappings of a jsonl file."""
    rows = []
    for i, line in enumerate(read_text(path, "a file of LeRobot v2", "JSON").splitlines(), start=1):
        row = parse_json(line, f"{path}: line {i}")
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise UserError(f"{path}: line {i}: expected the keys {', '.join(keys)}, got {line[:80]}")
        for key in keys:
            if key != "task" and (type(row[key]) is not int or not 0 <= row[key] < MAX_NUMBER):
                raise UserError(f"{path}: line {i}: {key}: expected a number from 0 on, got {row[key]!r:.80}")
        rows.append(row)
    return rows


def _table(path: Path, columns: list[str] | None) -> Any:
    expect_file(path, "a parquet file of the data set")
    with containers.readable(path, "parquet", b"PAR1"):
        try:
            file = pq.ParquetFile(path)
            missing = [c for c in columns or () if c not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: expected the column {missing[0]!r}, got {file.schema_arrow.names}")
            return file.read(columns=columns)
        except pyarrow.ArrowException as error:
            raise ValueError(error) from None


def video_uses(path: Path) -> list[VideoUse]:
    """The videos of a data set and the frames of its episodes in them, as `meta/` describes them."""
    return uses_of({place: (e.length, e.videos) for place, e in enumerate(_Set(path).episodes())})


def described(path: Path) -> str:
    """Robot, frame rate and cameras of a data set, for people."""
    found = _Set(path)
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
    return _Set(path).total_episodes


def about(path: Path) -> DatasetInfo:
    """The splits of meta/info.json."""
    found = _Set(path)
    numbers = np.array([episode.number for episode in found.episodes()], np.int64)
    splits = {}
    for name, text in (found.info.get("splits") or {}).items():
        splits[name] = split_of(str(text), numbers, f"{path / INFO}: splits: {name}")
    return DatasetInfo(splits=splits)


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    found = _Set(path)
    found.action = lerobot_names.action_of(found.features, str(path / INFO), wanted.keys.action)
    episodes, tasks = found.episodes(), found.tasks()
    total = found.total_episodes
    if len(episodes) != total:
        raise UserError(f"{path / INFO}: total_episodes: expected {total} episodes, meta/ describes {len(episodes)}")
    if not episodes:
        raise UserError(f"{path}: expected at least one episode, meta/ describes none")
    names = _observations(found.features, wanted, path)
    _leave_out_deep(names, found, episodes, wanted)
    reader = _Reader(found, names, tasks, frame_faults(uses_of({e.number: (e.length, e.videos) for e in episodes})))
    for episode in episodes:
        yield read_episode(f"episode {episode.number}", wanted, functools.partial(reader.read, episode))


class _Reader:
    """Reads episode after episode. Tables and videos stay open until an episode needs others."""

    def __init__(
        self, found: _Set, names: Mapping[str, str], tasks: Mapping[int, str], faults: Mapping[tuple[str, int], str]
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

    def read(self, episode: _Episode) -> EpisodeChunk:
        where = f"{self._set.root}: episode {episode.number}"
        if self._table is None or self._file != episode.data:
            self._table = _Table(_table(episode.data, self._columns), episode.data)
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


def _leave_out_deep(names: dict[str, str], found: _Set, episodes: list[_Episode], wanted: ReadOptions) -> None:
    """Remove images of more than 8 bits, as the first episode has them, from `names`."""
    first = next((e for e in episodes if e.length), episodes[0])
    for feature in [f for f in names if found.features[f]["dtype"] in ("video", "image")]:
        if found.features[feature]["dtype"] == "video":
            deep = more_bits_in(first.videos[feature].path)
        else:
            deep = _deep_image(first, feature, found.root)
        if deep:
            wanted.leave_out(names.pop(feature), deep, str(found.root))


def _deep_image(episode: _Episode, feature: str, root: Path) -> str:
    try:
        _images(_table(episode.data, [feature])[feature].slice(0, 1), root, feature)
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

    def rows(self, episode: _Episode) -> slice:
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
