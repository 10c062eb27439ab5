"""RLDS as TensorFlow Datasets stores it: `dataset_info.json`, `features.json`, TFRecord shards; an Example an episode.

https://www.tensorflow.org/datasets/external_tfrecord. `steps/observation/X` is `X`; the splits `val` and `validation`
are `valid`. The instruction is that of the first step. Every step is kept, also the last, whose action RLDS leaves open
and robot data fill in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.summary.writer.record_writer import RecordWriter

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import containers
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions, read_episode
from raybc.data.tfrecord import Values, build, parse, records
from raybc.data.videos import decode_image, encode_png
from raybc.files import read_json, replacing, write_json
from raybc.types import UserError

NAME = "rlds"
DESCRIPTION = "a folder with dataset_info.json, features.json and .tfrecord files (TensorFlow Datasets)"
INFO, FEATURES = "dataset_info.json", "features.json"
OBSERVATION, ACTION = "steps/observation/", "action"
INSTRUCTIONS = (
    "steps/language_instruction",
    "steps/observation/natural_language_instruction",
    "steps/observation/language_instruction",
)
#: Of a record without contents: its length and two checksums.
MIN_RECORD_BYTES = 16
RENAMED = {"val": "valid", "validation": "valid"}


def matches(path: Path) -> bool:
    """Whether `path` is a folder of TensorFlow Datasets."""
    return (path / INFO).is_file() and (path / FEATURES).is_file()


def _splits(path: Path) -> list[tuple[str, list[Path], int]]:
    """(name, shards, number of episodes) of each split."""
    found = []
    with containers.readable(path / INFO, "the description of an RLDS set"):
        for split in read_json(path / INFO)["splits"]:
            name = str(split["name"])
            shards = sorted(path.glob(f"*-{re.sub(r'[^a-zA-Z0-9_]', '?', name)}.tfrecord-*-of-*"))
            lengths = [int(n) for n in split["shardLengths"]]
            if len(shards) != len(lengths):
                raise UserError(f"{path}: split {name!r}: expected {len(lengths)} shards, got {len(shards)}")
            for shard, length in zip(shards, lengths, strict=True):
                most = shard.stat().st_size // MIN_RECORD_BYTES
                if not 0 <= length <= most:
                    raise UserError(f"{path / INFO}: {shard.name}: expected at most {most} episodes, got {length}")
            found.append((name, shards, sum(lengths)))
    return found


def count(path: Path) -> int:
    """Number of episodes, as dataset_info.json declares it."""
    return sum(count for _, _, count in _splits(path))


def about(path: Path) -> DatasetInfo:
    """The splits; rewards of 0 and 1 are success."""
    splits, first = {}, 0
    for name, _, count in _splits(path):
        splits[RENAMED.get(name, name)] = np.arange(first, first + count)
        first += count
    return DatasetInfo(splits=splits, reward_is_success=True)


def _features(path: Path) -> dict[str, Mapping[str, Any]]:
    """Name of a feature -> its description in `features.json`: a mapping with `tensor`, `image` or `text`."""

    def walk(prefix: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if "featuresDict" in node:
            for name, inner in node["featuresDict"]["features"].items():
                yield from walk(f"{prefix}/{name}" if prefix else name, inner)
        elif "sequence" in node:
            yield from walk(prefix, node["sequence"]["feature"])
        else:
            yield prefix, node

    with containers.readable(path / FEATURES, "the features of an RLDS set"):
        return dict(walk("", read_json(path / FEATURES)))


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    features = _features(path)
    action = f"steps/{wanted.keys.action or ACTION}"
    if action not in features:
        raise UserError(f"{path / FEATURES}: expected the feature {action!r}, got {sorted(features)}")
    names = {
        feature: feature.removeprefix(OBSERVATION)
        for feature, declared in features.items()
        if feature.startswith(OBSERVATION) and _is_read(feature.removeprefix(OBSERVATION), declared, wanted, path)
    }
    number = 0
    for split, shards, count in _splits(path):
        before = number
        for shard in shards:
            for record in records(shard):
                name = f"{shard.name}: episode {number}"
                yield read_episode(
                    name, wanted, functools.partial(_read, record, features, names, name, path, shard, action)
                )
                number += 1
        if number - before != count:
            raise UserError(f"{path}: split {split!r}: expected {count} episodes, got {number - before}")


def _is_read(name: str, declared: Mapping[str, Any], wanted: ReadOptions, path: Path) -> bool:
    """Whether an observation is read, by its description in `features.json`."""
    if "text" in declared or declared.get("tensor", {}).get("dtype") == "string":
        if OBSERVATION + name not in INSTRUCTIONS:
            wanted.remarks.note("text", name, "not read: text is no observation")
        return False
    if "image" not in declared:
        return "tensor" in declared
    if not wanted.image(name):
        return False
    dtype = str(declared["image"].get("dtype", "uint8"))
    if dtype != "uint8":
        wanted.leave_out(name, f"{dtype}: depth or more than 8 bits", str(path))
    return dtype == "uint8"


def _read(
    record: bytes,
    features: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    name: str,
    path: Path,
    shard: Path,
    action: str,
) -> EpisodeChunk:
    with containers.readable(shard, f"an Example ({name})"):
        return _part(parse(record), features, names, name, path, action)


def _part(
    values: Mapping[str, Values],
    features: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    name: str,
    path: Path,
    action: str,
) -> EpisodeChunk:
    def array(feature: str) -> np.ndarray:
        found = values.get(feature)
        if found is None:
            raise UserError(f"{path}: {name}: expected {feature!r}, got {sorted(values)}")
        if isinstance(found, list):
            if "image" not in features[feature]:
                raise UserError(f"{path}: {name}: {feature}: expected numbers, got bytes")
            sizes = [str(n) for n in features[feature]["image"].get("shape", {}).get("dimensions", ())]
            channels = int(sizes[2]) if len(sizes) == 3 and sizes[2] in ("1", "4") else 3
            return np.stack([decode_image(data, f"{path}: {name}: {feature}", channels) for data in found])
        shape = [int(n) for n in features[feature]["tensor"].get("shape", {}).get("dimensions", ())]
        return found.reshape(-1, *shape)

    actions = array(action)
    words: Values = next((values[k] for k in INSTRUCTIONS if k in values), [])
    flags = ("reward", "is_terminal", "is_last", "is_first")
    optional = {k: array(f"steps/{k}") for k in flags if f"steps/{k}" in values}
    return EpisodeChunk(
        name=name,
        obs={ours: array(feature) for feature, ours in names.items()},
        actions=actions,
        rewards=optional.get("reward"),
        terminals=_terminals(optional, len(actions)),
        tasks=(words[0].decode(),) if isinstance(words, list) and words else (),
    )


def _terminals(flags: Mapping[str, np.ndarray], steps: int) -> np.ndarray | None:
    """`is_terminal`, and where an episode continues after an end or a new beginning, for `verify`; None without
    flags."""
    found = [np.asarray(flags["is_terminal"]).reshape(-1).astype(bool)] if "is_terminal" in flags else []
    for name in ("is_last", "is_first"):
        if name in flags and len(flags[name]) == steps:
            early = np.zeros(steps, bool)
            values = np.asarray(flags[name]).reshape(-1).astype(bool)
            early[:-1] = values[:-1] if name == "is_last" else values[1:]
            found.append(early)
    return np.logical_or.reduce(found) if found else None


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write one shard for each split (`train` where there are no splits), images as PNG. States and success are
    lost."""
    given = _disjoint(store)
    steps: dict[str, Any] = {"action": _tensor(store.actions_NA), "reward": _tensor(store.rewards_N)}
    steps["observation"] = _dict({k: _tensor(v) for k, v in store.obs.items()})
    if store.terminals_N is not None:
        steps["is_terminal"] = _tensor(store.terminals_N)
    if store.tasks:
        steps["language_instruction"] = {"text": {}}
    with replacing(path) as temporary:
        temporary.mkdir(parents=True)
        write_json(temporary / FEATURES, _dict({"steps": {"sequence": {"feature": _dict(steps)}}}))
        splits = [{"name": n, "shardLengths": [str(len(e))]} for n, e in given.items()]
        write_json(temporary / INFO, {"name": "converted", "fileFormat": "tfrecord", "splits": splits})
        for name, episodes in given.items():
            with (temporary / f"converted-{name}.tfrecord-00000-of-00001").open("wb") as handle:
                writer = RecordWriter(handle)
                for episode in episodes:
                    writer.write(build(_example(store, int(episode))))
                writer.flush()


def _disjoint(store: EpisodeStore) -> dict[str, np.ndarray]:
    """The splits that share no episode with an earlier one, `train` and `valid` first, and the rest as `unused`: every
    episode is written once."""
    found: dict[str, np.ndarray] = {}
    left = np.arange(store.num_episodes)
    if not store.splits:
        return {"train": left}
    for name in sorted(store.splits, key=lambda n: ("train", "valid", n).index(n)):
        episodes = np.asarray(store.splits[name])
        if np.isin(episodes, left).all():
            found[name], left = episodes, np.setdiff1d(left, episodes)
    return found | ({"unused": left} if len(left) else {})


def _dict(features: Mapping[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": dict(features)}}


def _tensor(array: np.ndarray) -> dict[str, Any]:
    kind = "image" if array.dtype == np.uint8 else "tensor"
    return {kind: {"shape": {"dimensions": [str(n) for n in array.shape[1:]]}, "dtype": str(array.dtype)}}


def _example(store: EpisodeStore, episode: int) -> dict[str, Values]:
    rows = slice(int(store.episode_starts[episode]), int(store.episode_ends[episode]))
    steps = rows.stop - rows.start
    values: dict[str, Values] = {f"steps/{ACTION}": store.actions_NA[rows], "steps/reward": store.rewards_N[rows]}
    for name, array in store.obs.items():
        image = name in store.images
        values[OBSERVATION + name] = [encode_png(p) for p in array[rows]] if image else array[rows]
    if store.terminals_N is not None:
        values["steps/is_terminal"] = store.terminals_N[rows]
    if store.tasks:
        values[INSTRUCTIONS[0]] = [store.tasks[episode].encode()] * steps
    return values
