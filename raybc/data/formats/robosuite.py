"""Demonstrations as robosuite records them (`demo.hdf5`) and as robomimic publishes them raw: states, no observations.

https://robosuite.ai/docs/algorithms/demonstrations.html. robomimic's layout without the groups `obs`. What a policy
observes is made from the states, in a simulator: `python -m raybc.data convert demo.hdf5 --env_name lift --out ...`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers, robomimic
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.files import parse_json
from raybc.types import UserError

NAME = "robosuite"
DESCRIPTION = "an HDF5 file with data/demo_1/states and actions and without observations (robosuite's own recordings)"
#: robomimic's EnvType.ROBOSUITE_TYPE.
ROBOSUITE_TYPE = 1


def matches(path: Path) -> bool:
    """Whether `path` has demonstrations with states, and none with observations."""
    if "data" not in containers.hdf5_names(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            data = file["data"]
            demos = [data[name] for name in data if name.startswith("demo_")]
            if not all(isinstance(demo, h5py.Group) for demo in demos) or any("obs" in demo for demo in demos):
                return False
            return any("states" in demo and "actions" in demo for demo in demos)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError):
        return False


def count(path: Path) -> int:
    """Number of demonstrations."""
    return robomimic.count(path)


def about(path: Path) -> DatasetInfo:
    """The environment, in robomimic's layout, and the splits `mask/*` of robomimic's raw files."""
    with containers.opened_hdf5(path, "robosuite HDF5") as file:
        data, _ = robomimic.demos_of(file, path)
        env_args = robomimic.env_args_of(data, path) or recorded_env(data, path)
    splits = robomimic.about(path).splits
    return DatasetInfo(splits=splits, env_args=env_args, frequency=robomimic.control_frequency(env_args))


def recorded_env(data: Any, path: Path) -> dict[str, Any]:
    """The environment that robosuite's recorder describes in `env` and `env_info`, in robomimic's layout; {} where it
    does not. Raises `UserError` for what is no JSON."""
    name, text = (_text(data.attrs.get(key)) for key in ("env", "env_info"))
    if not name:
        return {}
    kwargs = parse_json(text, f"{path}: env_info") if text else {}
    if not isinstance(kwargs, dict):
        raise UserError(f"{path}: env_info: expected a mapping, got {type(kwargs).__name__}")
    version = _text(data.attrs.get("repository_version"))
    kwargs = {key: value for key, value in kwargs.items() if key != "env_name"}
    return {"env_name": name, "type": ROBOSUITE_TYPE, "env_version": version, "env_kwargs": kwargs}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order, without observations. Raises `UserError` for what is missing, damaged or inconsistent."""
    with containers.opened_hdf5(path, "robosuite HDF5") as file:
        data, names = robomimic.demos_of(file, path)
        for name in names:
            yield base.read_episode(name, wanted, functools.partial(_part, data[name], name, path, wanted))


def _part(demo: h5py.Group, name: str, path: Path, wanted: ReadOptions) -> EpisodeChunk:
    where = f"{path}: {name}"
    actions = containers.hdf5_values(demo, wanted.keys.action or "actions", where)
    states = robomimic.states_of(demo, where, len(actions)) if wanted.states else None
    return EpisodeChunk(name=name, obs={}, actions=actions, states=states)


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write an HDF5 file of actions and states. Everything else is lost. Raises `UserError` for data without states."""
    if store.states_NS is None:
        raise UserError(f"{path}: expected data with states of the simulator, got none; choose another --format")
    with robomimic.replacing(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        data.attrs["env"] = str(store.env_args.get("env_name", ""))
        data.attrs["env_info"] = json.dumps(dict(store.env_args.get("env_kwargs", {})))
        data.attrs["repository_version"] = str(store.env_args.get("env_version", ""))
        for i, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True), start=1):
            data[f"demo_{i}/states"] = store.states_NS[start:end]
            data[f"demo_{i}/actions"] = store.actions_NA[start:end]
