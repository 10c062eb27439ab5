"""The contents of a LeRobotDataset's `meta/`: `info.json`, where the frames of episodes are, and the instructions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet as pq

from raybc.causes import expect_file
from raybc.data.formats import containers, lerobot_names
from raybc.data.formats.lerobot_frames import Frames
from raybc.files import parse_json, read_json, read_text
from raybc.types import UserError

INFO = "meta/info.json"
#: A data set that declares more is damaged. The largest published ones have some hundred thousand.
MAX_EPISODES = 10**8
#: Numbers of episodes, tasks and frames are below.
MAX_NUMBER = 2**53
#: A placeholder of a path template, such as "{file_index:03d}"; str.format would also pad to gigabytes.
PLACEHOLDER = re.compile(r"\{(\w+)(:0?\d{0,2}d?)?\}")


@dataclass(frozen=True)
class EpisodeMeta:
    """One episode, as `meta/` describes it."""

    number: int
    """episode_index."""
    length: int
    """Steps."""
    data: Path
    """Its parquet file."""
    videos: Mapping[str, Frames]
    """Feature -> its frames in a video."""


class Meta:
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

    def episodes(self) -> list[EpisodeMeta]:
        return self._episodes_v3() if self.v3 else self._episodes_v2()

    def _videos(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature["dtype"] == "video"]

    def _episodes_v3(self) -> list[EpisodeMeta]:
        rows: list[dict[str, Any]] = []
        for path in sorted((self.root / "meta" / "episodes").glob("*/*.parquet")):
            table = table_of(path, None)
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
                found.append(EpisodeMeta(int(row["episode_index"]), length, self.file("data_path", **at), videos))
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

    def _episodes_v2(self) -> list[EpisodeMeta]:
        found = []
        for row in _lines(self.root / "meta" / "episodes.jsonl", ("episode_index", "length")):
            number = int(row["episode_index"])
            at = {"episode_chunk": number // max(1, int(self.get("chunks_size", int))), "episode_index": number}
            videos = {key: Frames(self.file("video_path", video_key=key, **at), 0) for key in self._videos()}
            found.append(EpisodeMeta(number, int(row["length"]), self.file("data_path", **at), videos))
        return sorted(found, key=lambda e: e.number)

    def tasks(self) -> dict[int, str]:
        """task_index -> instruction."""
        if not self.v3:
            rows = _lines(self.root / "meta" / "tasks.jsonl", ("task_index", "task"))
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        path = self.root / "meta" / "tasks.parquet"
        table = table_of(path, None)
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


def table_of(path: Path, columns: list[str] | None) -> Any:
    """The pyarrow table of a parquet file. columns: those to read; None: all. Raises `UserError` if one is missing."""
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
