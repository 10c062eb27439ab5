"""robomimic's HDF5 layout: `data/demo_i/{obs/*, actions, rewards, dones, states}`, `mask/*`, `env_args`.

https://robomimic.github.io/docs/datasets/overview.html
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from raybc.data.demo import Demo as Demo
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.formats.images import resembles_image
from raybc.files import parse_json, replacing
from raybc.types import UserError

NAME = "robomimic"
#: Attributes of an episode, and of all data, for what robomimic's layout has no place for.
SUCCESS, INSTRUCTION, FREQUENCY = "raybc_success", "raybc_instruction", "raybc_frequency"
DESCRIPTION = "an HDF5 file with groups data/demo_0, data/demo_1, ..."


def write(path: Path, demos: Sequence[Demo], env_args: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write demonstrations, completely or not at all. One in ten (at least one, if there are two) is in `mask/valid`.

    env_args: the environment, in robomimic's layout (JSON). attributes: further attributes of the group `data`.
    """
    valid = [i for i in range(len(demos)) if i % 10 == 9] or ([len(demos) - 1] if len(demos) > 1 else [])
    train = [i for i in range(len(demos)) if i not in set(valid)]
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
        write_masks(file, {"train": train, "valid": valid})


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write an HDF5 file. Success and instructions are attributes of episodes that `read` knows; declared action ranges
    are lost."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        write_episodes(file, store)
        write_masks(file, store.splits)


def write_episodes(
    file: h5py.File,
    store: EpisodeStore,
    obs_names: Mapping[str, str] | None = None,
    episodes: np.ndarray | None = None,
) -> h5py.Group:
    """Write episodes into the group `data` and return it.

    obs_names: observation -> its name in the file, where the two differ. episodes: numbers of those to write; None:
    all.
    """
    starts, ends = store.episode_starts, store.episode_ends
    chosen = range(store.num_episodes) if episodes is None else episodes
    data = file.create_group("data")
    data.attrs["env_args"] = json.dumps(dict(store.env_args))
    data.attrs["total"] = int(sum(ends[e] - starts[e] for e in chosen))
    if store.frequency is not None and store.frequency != control_frequency(store.env_args):
        data.attrs[FREQUENCY] = store.frequency
    names = {f"obs/{k}": f"obs/{v}" for k, v in (obs_names or {}).items()} | {"terminals": "dones"}
    for i, episode in enumerate(chosen):
        start, end = starts[episode], ends[episode]
        group = data.create_group(f"demo_{i}")
        group.attrs["num_samples"] = end - start
        if store.success_E is not None:
            group.attrs[SUCCESS] = bool(store.success_E[episode])
        if store.tasks:
            group.attrs[INSTRUCTION] = store.tasks[episode]
        for name, array in store.arrays().items():
            values = array[start:end]
            group.create_dataset(names.get(name, name), data=values.astype(np.int64) if name == "terminals" else values)
    return data


def write_masks(file: h5py.File, splits: Mapping[str, Sequence[int] | np.ndarray]) -> None:
    """Write splits as robomimic's masks."""
    for name, members in splits.items():
        file.create_dataset(f"mask/{name}", data=np.array([f"demo_{i}" for i in members], dtype="S"))


def read(path: Path, images: bool | tuple[str, ...] = False, states: bool = False) -> EpisodeStore:
    """The demonstrations of a robomimic file, in memory.

    images: no images, all of them, or those of these names. states: whether to read the simulator's states. Raises
    `UserError` with file, episode and key for a missing, truncated or inconsistent file.
    """
    return base.collect(cast(base.Format, sys.modules[__name__]), path, ReadOptions(images, states))


def matches(path: Path) -> bool:
    """Whether `path` is an HDF5 file with a group `data`."""
    return "data" in containers.hdf5_names(path)


def count(path: Path) -> int:
    """Number of demonstrations."""
    with containers.opened_hdf5(path, "robomimic HDF5") as file:
        return len(demos_of(file, path)[1])


def about(path: Path) -> DatasetInfo:
    """The splits `mask/*`, the environment and its rate; rewards of 0 and 1 are success."""
    with containers.opened_hdf5(path, "robomimic HDF5") as file:
        data, names = demos_of(file, path)
        env_args = env_args_of(data, path)
        return DatasetInfo(
            splits=masks_of(file, names, path), env_args=env_args, reward_is_success=True,
            frequency=frequency_of(data, env_args),
        )  # fmt: skip


def frequency_of(data: h5py.Group, env_args: Mapping[str, Any]) -> float | None:
    """Steps per second, by the attribute that raybc writes or the controller of the environment."""
    said = data.attrs.get(FREQUENCY)
    return float(said) if isinstance(said, float | int) and 0 < said < np.inf else control_frequency(env_args)


def control_frequency(env_args: Mapping[str, Any]) -> float | None:
    """robosuite's `control_freq` (Hz); None where the environment does not name it."""
    arguments = env_args.get("env_kwargs")
    found = arguments.get("control_freq") if isinstance(arguments, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if 0 < found < np.inf else None


def recorded_seeds(path: Path) -> list[int] | None:
    """The seed that each episode began with, in files of raybc.demos; None for other files."""
    with containers.opened_hdf5(path, "robomimic HDF5") as file:
        data, names = demos_of(file, path)
        if "raybc_key" not in data.attrs:
            return None
        return [int(data[name].attrs["seed"]) for name in names]


def first_states(path: Path, wanted: Container[int]) -> dict[int, np.ndarray]:
    """Episode -> its first state, float64 (S,), of those that have one: the attribute `init_state`, as LIBERO writes
    it, or `states` with a single row."""
    found: dict[int, np.ndarray] = {}
    if not path.is_file():
        return found
    with containers.opened_hdf5(path, "robomimic HDF5") as file:
        data, names = demos_of(file, path)
        for i, name in enumerate(names):
            state = data[name].attrs.get("init_state")
            if state is None and "states" in data[name]:
                state = containers.hdf5_values(data[name], "states", f"{path}: {name}")[:1]
            if i in wanted and isinstance(state, np.ndarray) and state.dtype.kind in "fiu" and state.size:
                found[i] = np.asarray(state, np.float64).reshape(-1)
    return found


def states_of(demo: h5py.Group, where: str, steps: int) -> np.ndarray | None:
    """The states of all steps; None where only the first is recorded (`first_states`)."""
    states = containers.hdf5_values(demo, "states", where)
    return None if states.ndim < 2 or (len(states) == 1 and steps > 1) else states


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    with containers.opened_hdf5(path, "robomimic HDF5") as file:
        data, names = demos_of(file, path)
        for name in names:
            yield base.read_episode(name, wanted, functools.partial(demo_part, data[name], name, path, wanted))


def demos_of(file: h5py.File, path: Path) -> tuple[h5py.Group, list[str]]:
    """The group `data` and the names of its episodes in order. Raises `UserError` where there are none."""
    if not isinstance(file.get("data"), h5py.Group):
        raise UserError(f"{path}: expected the group 'data' of the robomimic layout, got {sorted(file)}")
    data = file["data"]
    names = sorted((n for n in data if n.startswith("demo_")), key=_demo_number)
    if not names:
        raise UserError(f"{path}: expected episodes data/demo_0, data/demo_1, ..., got none")
    for name in names:
        if isinstance(data.get(name, getlink=True), h5py.ExternalLink) or not isinstance(data[name], h5py.Group):
            raise UserError(f"{path}: {name}: expected a group with actions and obs, got an array or a link")
    return data, names


def demo_part(demo: h5py.Group, name: str, path: Path, wanted: ReadOptions) -> EpisodeChunk:
    """One episode. Arrays of more than two dimensions are only read if they are wanted images; names in nested groups
    are joined with "/".

    name, path: for messages.
    """
    where = f"{path}: {name}"
    actions = containers.hdf5_values(demo, wanted.keys.action or "actions", where)
    if not isinstance(demo.get("obs"), h5py.Group):
        raise UserError(f"{where}: expected the group 'obs', got {sorted(demo)}")
    obs = {}
    for key, found in containers.hdf5_members(demo["obs"], f"{where}: obs"):
        if found.dtype.kind not in "fiub":
            wanted.observation(key, found, where)  # notes that text is left out
        elif found.ndim <= 2 or wanted.named(key) or (wanted.image(key) and resembles_image(found.shape, found.dtype)):
            obs[key] = containers.hdf5_values(demo["obs"], key, where)
    return EpisodeChunk(
        name=name,
        obs=obs,
        actions=actions,
        rewards=containers.hdf5_values(demo, "rewards", where) if "rewards" in demo else None,
        terminals=containers.hdf5_values(demo, "dones", where) if "dones" in demo else None,
        states=states_of(demo, where, len(actions)) if wanted.states and "states" in demo else None,
        tasks=(str(demo.attrs[INSTRUCTION]),) if INSTRUCTION in demo.attrs else (),
        success=(bool(demo.attrs[SUCCESS]),) if SUCCESS in demo.attrs else (),
    )


def _demo_number(name: str) -> int:
    digits = name.removeprefix("demo_")
    return int(digits) if digits.isdigit() else -1


def masks_of(file: h5py.File, names: list[str], path: Path) -> dict[str, np.ndarray]:
    """The splits `mask/*` as numbers of the episodes `names`. Raises `UserError` for episodes that do not exist."""
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


def env_args_of(data: h5py.Group, path: Path) -> dict[str, Any]:
    """The JSON of the attribute `env_args`; {} where it is missing. Raises `UserError` for anything but a mapping."""
    text = data.attrs.get("env_args")
    if text is None:
        return {}
    if not isinstance(text, str | bytes):
        raise UserError(f"{path}: env_args: expected a text in JSON, got {type(text).__name__}")
    value = parse_json(text, f"{path}: env_args")
    if not isinstance(value, dict):
        raise UserError(f"{path}: env_args: expected a mapping, got {type(value).__name__}")
    return value
