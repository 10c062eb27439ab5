"""robomimic's HDF5 layout (low-dim): `data/demo_i/{obs/*, actions, rewards, dones, states}`, `mask/*`, `env_args`.

https://robomimic.github.io/docs/datasets/overview.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.files import replacing
from raybc.types import UserError


@dataclass(frozen=True)
class Demo:
    """One demonstration of T steps: obs name -> float32 (T, O_name), actions (T, A), rewards (T,), dones (T,), and
    states (T, D): the simulator's state before each action. `seed` is its start."""

    obs: Mapping[str, np.ndarray]
    next_obs: Mapping[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    states: np.ndarray
    seed: int
    model_xml: str = ""


def write(path: Path, demos: Sequence[Demo], env_args: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write demonstrations; whole or not at all. One in ten (at least one, where there are two) is in `mask/valid`."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(dict(env_args))
        data.attrs["total"] = sum(len(d.actions) for d in demos)
        for key, value in attributes.items():
            data.attrs[key] = value
        for i, demo in enumerate(demos):
            group = data.create_group(f"demo_{i}")
            group.attrs["num_samples"] = len(demo.actions)
            group.attrs["seed"] = demo.seed
            if demo.model_xml:
                group.attrs["model_file"] = demo.model_xml
            for name in ("actions", "rewards", "dones", "states"):
                group.create_dataset(name, data=getattr(demo, name))
            for key, array in demo.obs.items():
                group.create_dataset(f"obs/{key}", data=array)
            for key, array in demo.next_obs.items():
                group.create_dataset(f"next_obs/{key}", data=array)
        valid = [i for i in range(len(demos)) if i % 10 == 9] or ([len(demos) - 1] if len(demos) > 1 else [])
        train = [i for i in range(len(demos)) if i not in set(valid)]
        for name, members in (("train", train), ("valid", valid)):
            file.create_dataset(f"mask/{name}", data=np.array([f"demo_{i}" for i in members], dtype="S"))


def read(path: Path) -> EpisodeStore:
    """Read a robomimic file; a missing, truncated or inconsistent one raises `UserError` with file, episode and key."""
    if not path.is_file():
        raise UserError(f"{path}: expected a robomimic HDF5 file, found none")
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except UserError:
        raise
    # What h5py raises for a truncated or damaged file: it depends on which byte is hit.
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, MemoryError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as HDF5 (damaged or truncated): {text}") from None


def _read(file: h5py.File, path: Path) -> EpisodeStore:
    if not isinstance(file.get("data"), h5py.Group):
        raise UserError(f"{path}: expected the group 'data' of the robomimic layout, got {sorted(file)}")
    data = file["data"]
    names = sorted((n for n in data if n.startswith("demo_")), key=_demo_number)
    if not names:
        raise UserError(f"{path}: expected episodes data/demo_0, data/demo_1, ..., got none")
    obs: dict[str, list[np.ndarray]] = {}
    actions: list[np.ndarray] = []
    rewards: list[np.ndarray] = []
    ends: list[int] = []
    total = 0
    for name in names:
        demo = data[name]
        if not isinstance(demo, h5py.Group):
            raise UserError(f"{path}: {name}: expected a group with actions and obs, got an array")
        action = _array(demo, "actions", 2, path)
        reward = _array(demo, "rewards", 1, path) if "rewards" in demo else np.zeros(len(action), np.float32)
        if len(reward) != len(action):
            raise UserError(f"{path}: {name}: rewards has {len(reward)} steps, actions has {len(action)}")
        if not isinstance(demo.get("obs"), h5py.Group):
            raise UserError(f"{path}: {name}: expected the group 'obs', got {sorted(demo)}")
        keys = [k for k, v in demo["obs"].items() if not (isinstance(v, h5py.Dataset) and v.ndim > 2)]
        if obs and set(keys) != set(obs):
            raise UserError(f"{path}: {name}: expected observations {sorted(obs)}, got {sorted(keys)}")
        for key in keys:
            array = _array(demo, f"obs/{key}", None, path)
            array = array.reshape(len(array), -1)
            if len(array) != len(action):
                raise UserError(f"{path}: {name}: obs/{key} has {len(array)} steps, actions has {len(action)}")
            if key in obs and array.shape[1] != obs[key][0].shape[1]:
                raise UserError(f"{path}: {name}: obs/{key} has size {array.shape[1]}, before {obs[key][0].shape[1]}")
            obs.setdefault(key, []).append(array)
        if actions and action.shape[1] != actions[0].shape[1]:
            raise UserError(f"{path}: {name}: actions have size {action.shape[1]}, before {actions[0].shape[1]}")
        actions.append(action)
        rewards.append(reward)
        total += len(action)
        ends.append(total)
    return EpisodeStore(
        obs={k: np.concatenate(v) for k, v in obs.items()},
        actions_NA=np.concatenate(actions),
        rewards_N=np.concatenate(rewards),
        episode_ends=np.array(ends, np.int64),
        splits=_masks(file, names, path),
        env_args=_env_args(data, path),
        source=path,
    )


def _array(group: h5py.Group, key: str, ndim: int | None, path: Path) -> np.ndarray:
    where = f"{path}: {group.name.rsplit('/', 1)[-1]}"
    if not isinstance(group.get(key), h5py.Dataset):
        raise UserError(f"{where}: expected the array {key!r}, got {sorted(group)}")
    dataset = group[key]
    if dataset.dtype.kind not in "fiub":
        raise UserError(f"{where}: {key}: expected numbers, got dtype {dataset.dtype}")
    if ndim is not None and dataset.ndim != ndim:
        raise UserError(f"{where}: {key}: expected {ndim} dimension(s), got shape {dataset.shape}")
    if dataset.shape[0] == 0:
        raise UserError(f"{where}: {key}: expected at least one step, got none")
    return np.asarray(dataset[()], np.float32)


def _demo_number(name: str) -> int:
    digits = name.removeprefix("demo_")
    return int(digits) if digits.isdigit() else -1


def _masks(file: h5py.File, names: list[str], path: Path) -> dict[str, np.ndarray]:
    number = {name: i for i, name in enumerate(names)}
    masks = {}
    for split in file.get("mask", ()):
        names_of = file["mask"][split]
        if not isinstance(names_of, h5py.Dataset) or names_of.ndim != 1:
            raise UserError(f"{path}: mask/{split}: expected a list of episode names")
        members = [m.decode() if isinstance(m, bytes) else str(m) for m in names_of[()]]
        unknown = [m for m in members if m not in number]
        if unknown:
            raise UserError(f"{path}: mask/{split}: names the episode {unknown[0]!r}, which is not in data/")
        masks[split] = np.array(sorted(number[m] for m in members), np.int64)
    return masks


def _env_args(data: h5py.Group, path: Path) -> dict[str, Any]:
    text = data.attrs.get("env_args")
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: env_args: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: env_args: expected a mapping, got {type(value).__name__}")
    return value
