"""Writing LeRobotDataset v3.0 (or v2.1): one parquet file, videos without loss or compressed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raybc.data.episodes import EpisodeStore
from raybc.data.formats.base import blocks
from raybc.data.videos import ENCODINGS, write_video
from raybc.files import replacing, write_json
from raybc.types import UserError

DATA = {
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}
#: Steps per second of data that do not say it; LeRobot has no set without.
FPS = 10
#: Numbers of images up to which statistics are computed at once.
WHOLE = 1 << 24
VIDEO = {
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}


def write_store(
    path: Path, store: EpisodeStore, version: str = "v3.0", fps: float = 0, encoding: str = "lossless"
) -> None:
    """Write a LeRobotDataset of `version` "v3.0" or "v2.1". fps: steps per second (0: those of `store`, or `FPS` where
    it does not know them). encoding: of the videos, one of `raybc.data.videos.ENCODINGS`."""
    if version not in DATA:
        raise UserError(f"version: expected one of {', '.join(DATA)}, got {version!r}")
    if encoding not in ENCODINGS:
        raise UserError(f"encoding: expected one of {', '.join(ENCODINGS)}, got {encoding!r}")
    fps = fps or store.frequency or FPS
    fps = int(fps) if fps == int(fps) else fps  # LeRobot's are whole numbers
    with replacing(path) as temporary:
        (temporary / "meta").mkdir(parents=True)
        (_write_v3 if version == "v3.0" else _write_v2)(temporary, store, fps, encoding)
        write_json(temporary / "meta" / "info.json", _info(store, version, fps))


def _names(store: EpisodeStore) -> dict[str, str]:
    """Observation -> feature."""
    return {k: f"observation.{'images.' if k in store.images else ''}{k}" for k in store.obs}


def _info(store: EpisodeStore, version: str, fps: float) -> dict[str, Any]:
    def feature(dtype: str, shape: tuple[int, ...], names: Any = None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "names": names}

    features = {}
    for name, key in _names(store).items():
        video = name in store.images
        axes = ["height", "width", "channel"] if video else None
        features[key] = feature("video" if video else "float32", store.obs[name].shape[1:], axes)
    features["action"] = feature("float32", store.actions_NA.shape[1:])
    for key, column in _columns(store, 0, 1).items():
        if key not in features:
            features[key] = feature(str(column.dtype), (1,))
    splits = {n: _ranges(e) for n, e in store.splits.items() if len(e)}
    return {
        "codebase_version": version,
        "robot_type": "unknown",
        "total_episodes": store.num_episodes,
        "total_frames": len(store.actions_NA),
        "total_tasks": len(_tasks(store)),
        "chunks_size": 1000,
        "fps": fps,
        "splits": splits or {"train": f"0:{store.num_episodes}"},
        "data_path": DATA[version],
        "video_path": VIDEO[version],
        "features": features,
    }


def _ranges(episodes: np.ndarray) -> str:
    """FIRST:END of ascending numbers, with commas between several ranges, as this reader knows them."""
    pieces = np.split(episodes, np.flatnonzero(np.diff(episodes) != 1) + 1)
    return ",".join(f"{piece[0]}:{piece[-1] + 1}" for piece in pieces)


def _tasks(store: EpisodeStore) -> list[str]:
    return list(dict.fromkeys(store.tasks)) or [""]


def _columns(store: EpisodeStore, first: int, end: int, fps: float = FPS) -> dict[str, np.ndarray]:
    """The columns of the episodes `first` .. `end - 1`."""
    lengths = store.episode_ends - store.episode_starts
    rows = slice(int(store.episode_starts[first]), int(store.episode_ends[end - 1]))
    chosen = np.arange(first, end)
    frame = np.concatenate([np.arange(n) for n in lengths[chosen]])
    columns = {key: store.obs[name][rows] for name, key in _names(store).items() if name not in store.images}
    columns |= {"action": store.actions_NA[rows], "next.reward": store.rewards_N[rows]}
    if store.terminals_N is not None:
        columns["next.done"] = store.terminals_N[rows]
    if store.success_E is not None:
        last = frame == np.repeat(lengths[chosen] - 1, lengths[chosen])
        columns["next.success"] = last & np.repeat(store.success_E[chosen], lengths[chosen])
    tasks = _tasks(store)
    numbers = np.array([tasks.index(t) for t in store.tasks] or [0] * store.num_episodes, np.int64)
    return columns | {
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(chosen, lengths[chosen]),
        "index": np.arange(rows.start, rows.stop),
        "task_index": np.repeat(numbers[chosen], lengths[chosen]),
    }


def _table(columns: dict[str, np.ndarray]) -> Any:
    def column(array: np.ndarray) -> Any:
        if array.ndim == 1:
            return pa.array(array)
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])

    return pa.table({name: column(np.ascontiguousarray(array)) for name, array in columns.items()})


def _tables(store: EpisodeStore, fps: float) -> Iterator[Any]:
    """The rows of whole episodes, a part of them at a time."""
    first = 0
    for _, _, lengths in blocks(store.episode_ends):
        yield _table(_columns(store, first, first + len(lengths), fps))
        first += len(lengths)


def _write_v3(folder: Path, store: EpisodeStore, fps: float, encoding: str) -> None:
    at = {"chunk_index": 0, "file_index": 0}
    _parquet(folder / DATA["v3.0"].format(**at), _tables(store, fps))
    tasks = _tasks(store)
    words = {"task_index": list(range(len(tasks))), "__index_level_0__": tasks}
    # pandas' description of its index, from which LeRobot takes the instructions.
    columns = [
        {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, field, kind, dtype in (
            ("task_index", "task_index", "int64", "int64"),
            (None, "__index_level_0__", "unicode", "object"),
        )
    ]
    pandas = {"index_columns": ["__index_level_0__"], "columns": columns, "column_indexes": []}
    words_table = pa.table(words).replace_schema_metadata({"pandas": json.dumps(pandas)})
    _parquet(folder / "meta/tasks.parquet", [words_table])
    rows = []
    for i, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True)):
        row = {"episode_index": i, "tasks": [store.tasks[i] if store.tasks else ""], "length": end - start}
        row |= {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": start, "dataset_to_index": end}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for name in store.images:
            key = f"videos/{_names(store)[name]}"
            row |= {f"{key}/chunk_index": 0, f"{key}/file_index": 0}
            row |= {f"{key}/from_timestamp": start / fps, f"{key}/to_timestamp": end / fps}
        rows.append({k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()})
    _parquet(folder / "meta/episodes/chunk-000/file-000.parquet", [pa.Table.from_pylist(rows)])
    write_json(folder / "meta/stats.json", _stats(store, slice(None)))
    for name in store.images:
        _video(folder / VIDEO["v3.0"].format(video_key=_names(store)[name], **at), store.obs[name], fps, encoding)


def _write_v2(folder: Path, store: EpisodeStore, fps: float, encoding: str) -> None:
    episodes, stats = [], []
    for i, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True)):
        at = {"episode_chunk": i // 1000, "episode_index": i}
        _parquet(folder / DATA["v2.1"].format(**at), [_table(_columns(store, i, i + 1, fps))])
        for name in store.images:
            place = folder / VIDEO["v2.1"].format(video_key=_names(store)[name], **at)
            _video(place, store.obs[name][start:end], fps, encoding)
        task = store.tasks[i] if store.tasks else ""
        episodes.append({"episode_index": i, "tasks": [task], "length": int(end - start)})
        stats.append({"episode_index": i, "stats": _stats(store, slice(start, end))})
    _jsonl(folder / "meta/episodes.jsonl", episodes)
    _jsonl(folder / "meta/episodes_stats.jsonl", stats)
    _jsonl(folder / "meta/tasks.jsonl", [{"task_index": i, "task": t} for i, t in enumerate(_tasks(store))])


def _stats(store: EpisodeStore, rows: slice) -> dict[str, Any]:
    arrays = {key: store.obs[name] for name, key in _names(store).items()} | {"action": store.actions_NA}
    return {key: _stats_of(array[rows]) for key, array in arrays.items()}


def _stats_of(array: np.ndarray) -> dict[str, Any]:
    """LeRobot's statistics: of each dimension or, for images, of each channel, from 0 to 1, shape (3, 1, 1)."""
    count, is_image = [len(array)], array.dtype == np.uint8
    if not is_image or array.size <= WHOLE:
        if is_image:
            array = array.reshape(-1, array.shape[-1]) / 255
        values = {k: getattr(array, k)(0).astype(float) for k in ("min", "max", "mean", "std")}
    else:
        values = _stats_in_parts(array)
    shape = (-1, 1, 1) if is_image else (-1,)
    return {**{k: v.reshape(shape).tolist() for k, v in values.items()}, "count": count}


def _stats_in_parts(images: np.ndarray) -> dict[str, np.ndarray]:
    """The same of images that do not fit into memory: exact sums of whole numbers, image by image."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for image in images:
        for channel in range(channels):
            counts[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)
    levels, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = counts @ levels / total
    seen = [np.flatnonzero(row) for row in counts]
    return {
        "min": np.array([levels[one[0]] for one in seen]),
        "max": np.array([levels[one[-1]] for one in seen]),
        "mean": mean,
        "std": np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total),
    }


def _parquet(path: Path, tables: Iterable[Any]) -> None:
    """Write tables of one schema one after another, each a row group of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer: Any = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _video(path: Path, frames: np.ndarray, fps: float, encoding: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, fps, encoding)


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
