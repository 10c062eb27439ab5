"""Minari's local data sets, read and written by the `minari` package.

https://minari.farama.org/main/content/dataset_standards. Observations in dicts are flattened: "/" between the keys, as
in environments (`raybc.envs.gym`); a bare array is `state`, a bare image `pixels`. The observation after the last
action is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.formats.images import resembles_image
from raybc.envs.base import require
from raybc.files import read_json, replacing, write_json
from raybc.types import UserError

NAME = "minari"
DESCRIPTION = "a folder with data/metadata.json of Minari (or that folder `data`)"
METADATA, MAIN = "metadata.json", "main_data.hdf5"
#: The simulator's state in `infos`, as Minari's mazes have it (a goal is not among MuJoCo's positions).
STATES = ("qpos", "qvel", "goal")


def _folder(path: Path) -> Path:
    return path / "data" if (path / "data" / METADATA).is_file() else path


def matches(path: Path) -> bool:
    """Whether `path` is a folder with Minari's metadata."""
    try:
        return "total_episodes" in read_json(_folder(path) / METADATA)
    except (UserError, OSError, TypeError):
        return False


def _open(path: Path) -> Any:
    """A `minari.MinariDataset`."""
    folder = _folder(path)
    metadata = read_json(folder / METADATA)
    if not isinstance(metadata, dict):
        raise UserError(f"{folder / METADATA}: expected a mapping, got {type(metadata).__name__}")
    missing = [k for k in ("observation_space", "action_space", "total_episodes", "data_format") if k not in metadata]
    if missing:  # without its spaces Minari would build the environment that the file names
        raise UserError(f"{folder / METADATA}: expected the key {missing[0]!r}, got {sorted(metadata)}")
    minari = require("minari", "minari")
    if metadata["data_format"] == "hdf5":
        with containers.opened_hdf5(folder / MAIN, "Minari HDF5") as file:  # minari opens it again, and checks no sizes
            containers.check_sizes(file, str(folder / MAIN))
    with containers.readable(folder, "a Minari data set"):
        return minari.MinariDataset(folder)


def count(path: Path) -> int:
    """Number of episodes, as the metadata declare it."""
    return int(read_json(_folder(path) / METADATA)["total_episodes"])


def about(path: Path) -> DatasetInfo:
    """The environment and the bounds of its action space."""
    dataset = _open(path)
    space = dataset.action_space
    bounded = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.is_bounded()
    spec = dataset.env_spec
    return DatasetInfo(
        env_args={} if spec is None else {"env_name": spec.id, "env_kwargs": dict(spec.kwargs or {})},
        action_range=(space.low.astype(np.float32), space.high.astype(np.float32)) if bounded else None,
    )


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    dataset = _open(path)
    for number in range(int(dataset.total_episodes)):
        read = functools.partial(_part, dataset, number, path, wanted)
        yield base.read_episode(f"episode {number}", wanted, read)


def _part(dataset: Any, number: int, path: Path, wanted: ReadOptions) -> EpisodeChunk:
    with containers.readable(_folder(path), "a Minari data set"):
        episode = next(iter(dataset.iterate_episodes([number])))
    name = f"episode {number}"
    if not isinstance(episode.actions, np.ndarray):
        raise UserError(f"{path}: {name}: actions: expected an array, got {type(episode.actions).__name__}")
    steps = len(episode.actions)
    obs = {}
    for key, array in _flat("", episode.observations, wanted):
        if len(array) != steps + 1:
            where = f"{path}: {name}: {key or 'observations'}"
            raise UserError(f"{where}: expected {steps + 1} rows, one more than actions, got {len(array)}")
        resembles = resembles_image(array.shape, array.dtype)
        key = key or ("pixels" if resembles else "state")
        if not resembles or wanted.image(key):
            obs[key] = array[:-1]
    infos = episode.infos if isinstance(episode.infos, Mapping) else {}
    success = infos.get("success")
    terminals = np.array(episode.terminations, bool)
    terminals[:-1] |= np.asarray(episode.truncations, bool)[
        :-1
    ]  # an episode that continues behind an end: see `verify`
    return EpisodeChunk(
        name=name,
        obs=obs,
        actions=episode.actions,
        rewards=np.asarray(episode.rewards),
        terminals=terminals,
        states=_states(infos, steps, f"{path}: {name}") if wanted.states else None,
        success=() if success is None else (bool(np.any(success)),),
    )


def _states(infos: Mapping[str, Any], steps: int, where: str) -> np.ndarray | None:
    """The states (T, S) before each step, where `infos` have positions; their first row is that of the reset."""
    if not isinstance(infos.get("qpos"), np.ndarray):
        return None
    present = {key: infos[key] for key in STATES if isinstance(infos.get(key), np.ndarray) and infos[key].ndim == 2}
    for key, array in present.items():
        if len(array) != steps + 1:
            raise UserError(f"{where}: infos/{key}: expected {steps + 1} rows, one more than actions, got {len(array)}")
    return np.concatenate([array[:-1] for array in present.values()], axis=1) if "qpos" in present else None


@dataclass(frozen=True)
class Reset:
    """The arguments of `reset` that an episode was started with."""

    seed: int | None
    """None where it was not recorded."""
    options: dict[str, Any]
    """{} where there were none."""


def recorded_resets(path: Path) -> list[Reset]:
    """The reset of each episode. Minari's collector draws and records a seed where the user gave none."""
    dataset = _open(path)
    with containers.readable(_folder(path), "a Minari data set"):
        found = list(dataset.storage.get_episode_metadata(range(int(dataset.total_episodes))))
    resets = []
    for said in found:
        options = {k: v for k, v in dict(said.get("options") or {}).items() if k != "minari_autoseed"}
        resets.append(Reset(None if said.get("seed") is None else int(said["seed"]), options))
    return resets


def _flat(key: str, value: Any, wanted: ReadOptions) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}/{name}" if key else str(name), inner, wanted)
    elif isinstance(value, np.ndarray):
        yield key, value
    else:  # tuples and texts have no counterpart in an environment here
        wanted.remarks.note("text", key or "observations", f"not read: {type(value).__name__} is no observation")


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write the folder. The observation after the last action, which a store does not have, is the last one again;
    splits, instructions and the environment are lost. Images become float32: Minari writes uint8 as JPEG."""
    minari = require("minari", "minari")
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    boxes: dict[str, gymnasium.Space[Any]] = {
        k: gymnasium.spaces.Box(-np.inf, np.inf, v.shape[1:], np.float32) for k, v in store.obs.items()
    }
    if store.action_range is None:
        action = gymnasium.spaces.Box(-np.inf, np.inf, store.actions_NA.shape[1:], np.float32)
    else:
        action = gymnasium.spaces.Box(*store.action_range, dtype=np.float32)
    with replacing(path) as temporary:
        (temporary / "data").mkdir(parents=True)
        storage = MinariStorage.new(temporary / "data", gymnasium.spaces.Dict(boxes), action)
        buffers = []
        for i, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True)):
            last = np.zeros(end - start, bool)
            last[-1] = True
            terminals = last & False if store.terminals_N is None else store.terminals_N[start:end]
            infos = {} if store.success_E is None else {"success": np.append(last & store.success_E[i], False)}
            if store.states_NS is not None:  # the complete state under one name that reading knows
                infos["qpos"] = store.states_NS[[*range(start, end), end - 1]]
            buffers.append(
                EpisodeBuffer(
                    id=i,
                    observations={k: v[[*range(start, end), end - 1]].astype(np.float32) for k, v in store.obs.items()},
                    actions=store.actions_NA[start:end],
                    rewards=store.rewards_N[start:end],
                    terminations=terminals,
                    truncations=last & ~terminals,
                    infos=infos or None,
                )
            )
        storage.update_episodes(buffers)
        metadata = read_json(temporary / "data" / METADATA)
        write_json(
            temporary / "data" / METADATA,
            {**metadata, "dataset_id": "raybc/converted-v0", "minari_version": minari.__version__},
        )
