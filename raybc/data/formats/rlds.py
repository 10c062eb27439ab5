"""RLDS as TensorFlow Datasets stores it: `dataset_info.json`, `features.json`, TFRecord shards; an Example an episode.

https://www.tensorflow.org/datasets/external_tfrecord. `steps/observation/X` is `X`; the splits `val` and `validation`
are `valid`. The instruction is that of the first step. Every step is kept, also the last, whose action RLDS leaves open
and robot data fill in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.summary.writer.record_writer import RecordWriter

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import containers
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.tfrecord import Values, build, parse, records
from raybc.data.videos import decode_image, encode_png
from raybc.files import read_json, replacing, write_json
from raybc.types import UserError

NAME = "rlds"
DESCRIPTION = "a folder with dataset_info.json, features.json and .tfrecord files (TensorFlow Datasets)"
INFO, FEATURES = "dataset_info.json", "features.json"
OBSERVATION, ACTION = "steps/observation/", "steps/action"
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
    if ACTION not in features:
        raise UserError(f"{path / FEATURES}: expected the feature {ACTION!r}, got {sorted(features)}")
    names = {
        feature: feature.removeprefix(OBSERVATION)
        for feature, declared in features.items()
        if feature.startswith(OBSERVATION)
        and ("tensor" in declared or ("image" in declared and wanted.image(feature.removeprefix(OBSERVATION))))
        and declared.get("tensor", {}).get("dtype") != "string"
    }
    number = 0
    for split, shards, count in _splits(path):
        before = number
        for shard in shards:
            for record in records(shard):
                with containers.readable(shard, f"an Example (episode {number})"):
                    yield _part(parse(record), features, names, f"{shard.name}: episode {number}", path)
                number += 1
        if number - before != count:
            raise UserError(f"{path}: split {split!r}: expected {count} episodes, got {number - before}")


def _part(
    values: Mapping[str, Values],
    features: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    name: str,
    path: Path,
) -> EpisodeChunk:
    def array(feature: str) -> np.ndarray:
        found = values.get(feature)
        if found is None:
            raise UserError(f"{path}: {name}: expected {feature!r}, got {sorted(values)}")
        if isinstance(found, list):
            if "image" not in features[feature]:
                raise UserError(f"{path}: {name}: {feature}: expected numbers, got bytes")
            return np.stack([decode_image(data, f"{path}: {name}: {feature}") for data in found])
        shape = [int(n) for n in features[feature]["tensor"].get("shape", {}).get("dimensions", ())]
        return found.reshape(-1, *shape)

    actions = array(ACTION)
    words: Values = next((values[k] for k in INSTRUCTIONS if k in values), [])
    optional = {k: array(f"steps/{k}") for k in ("reward", "is_terminal") if f"steps/{k}" in values}
    return EpisodeChunk(
        name=name,
        obs={ours: array(feature) for feature, ours in names.items()},
        actions=actions,
        rewards=optional.get("reward"),
        terminals=optional.get("is_terminal"),
        tasks=(words[0].decode(),) if isinstance(words, list) and words else (),
    )


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write one shard for each split (`train` where there are no splits), images as PNG. States and success are
    lost."""
    given = {n: np.asarray(e) for n, e in store.splits.items()} or {"train": np.arange(store.num_episodes)}
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


def _dict(features: Mapping[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": dict(features)}}


def _tensor(array: np.ndarray) -> dict[str, Any]:
    kind = "image" if array.dtype == np.uint8 else "tensor"
    return {kind: {"shape": {"dimensions": [str(n) for n in array.shape[1:]]}, "dtype": str(array.dtype)}}


def _example(store: EpisodeStore, episode: int) -> dict[str, Values]:
    rows = slice(int(store.episode_starts[episode]), int(store.episode_ends[episode]))
    steps = rows.stop - rows.start
    values: dict[str, Values] = {ACTION: store.actions_NA[rows], "steps/reward": store.rewards_N[rows]}
    for name, array in store.obs.items():
        image = name in store.images
        values[OBSERVATION + name] = [encode_png(p) for p in array[rows]] if image else array[rows]
    if store.terminals_N is not None:
        values["steps/is_terminal"] = store.terminals_N[rows]
    if store.tasks:
        values[INSTRUCTIONS[0]] = [store.tasks[episode].encode()] * steps
    return values
