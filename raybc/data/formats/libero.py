"""LIBERO's HDF5 layout: robomimic's, with the instruction in `data.attrs["problem_info"]`; a folder is a suite.

https://github.com/Lifelong-Robot-Learning/LIBERO. Images are as LIBERO stores them (OpenGL's convention: upside down);
those of `raybc demos` are upright, as its environments observe them. Where a file has no `problem_info` (data that
others have filtered), the instruction is read from the name of the BDDL file or of the file itself, as LIBERO does.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from raybc.data.demo import Demo
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers, robomimic
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.files import parse_json, replacing
from raybc.types import UserError

NAME = "libero"
DESCRIPTION = "an HDF5 file of robomimic's layout with problem_info or LIBERO's observations, or a folder of such files"
OBSERVATIONS = {"ee_states", "gripper_states", "joint_states"}
ATTRIBUTES = ("problem_info", "bddl_file_name")


def files(path: Path) -> list[Path]:
    """The files of a suite, one for each task, in order; the file itself where `path` is one."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix in (".hdf5", ".h5") and not p.name.startswith("."))


def matches(path: Path) -> bool:
    """Whether `path` is a LIBERO file, or a folder with such a file."""
    try:
        return any(_is_libero(each) for each in files(path))
    except OSError:
        return False


def _is_libero(path: Path) -> bool:
    if "data" not in containers.hdf5_names(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            data = file["data"]
            # Any demonstration tells: filters leave out demo_0 as well as others.
            observed = (data.get(f"{name}/obs", ()) for name in data if name.startswith("demo_"))
            return any(name in data.attrs for name in ATTRIBUTES) or any(set(obs) >= OBSERVATIONS for obs in observed)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError):
        return False


def count(path: Path) -> int:
    """Number of episodes of all files."""
    return sum(robomimic.count(each) for each in _files(path))


def about(path: Path) -> DatasetInfo:
    """Environment of the first file; the masks of all files; rewards of 0 and 1 are success."""
    splits: dict[str, list[np.ndarray]] = {}
    env_args: dict[str, Any] = {}
    frequency: float | None = None
    before = 0
    for i, each in enumerate(_files(path)):
        with containers.opened_hdf5(each, "LIBERO HDF5") as file:
            data, names = robomimic.demos_of(file, each)
            for split, members in robomimic.masks_of(file, names, each).items():
                splits.setdefault(split, []).append(members + before)
            before += len(names)
            if i == 0:
                bddl = _text(data.attrs.get("bddl_file_name"))
                env_args = robomimic.env_args_of(data, each) | ({"bddl_file_name": bddl} if bddl else {})
                frequency = robomimic.frequency_of(data, env_args)
    joined = {split: np.concatenate(members) for split, members in splits.items()}
    return DatasetInfo(splits=joined, env_args=env_args, reward_is_success=True, frequency=frequency)


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    kept = _files(path)
    for each in files(path):
        if each not in kept:
            text = f"holds no episode, so the task {each.stem.removesuffix('_demo')!r} is left out"
            wanted.remarks.note("rest", each.name, text)
    for each in kept:
        with containers.opened_hdf5(each, "LIBERO HDF5") as file:
            data, names = robomimic.demos_of(file, each)
            task: str | None = None
            for name in names:
                read = functools.partial(robomimic.demo_part, data[name], name, each, wanted)
                part = base.read_episode(name, wanted, read)
                if task is None:  # attributes after arrays: see `base.collect`
                    task = instruction(data, each)
                label = f"{each.name}: {name}" if path.is_dir() else name
                yield dataclasses.replace(part, name=label, tasks=part.tasks or (task,))


def recorded_seeds(path: Path) -> list[int] | None:
    """The seed that each episode of all files began with, in files of raybc.demos; None for other files."""
    found = [robomimic.recorded_seeds(each) for each in _files(path)]
    return None if None in found else [seed for seeds in found for seed in seeds or ()]


def _files(path: Path) -> list[Path]:
    """The files with demonstrations. Tasks of which a filter left none are left out."""
    found = files(path)
    empty = [each for each in found if _is_empty(each)]
    if not set(found) - set(empty):
        raise UserError(f"{path}: expected HDF5 files of LIBERO with episodes data/demo_0, data/demo_1, ..., got none")
    return [each for each in found if each not in empty]


def _is_empty(path: Path) -> bool:
    with containers.opened_hdf5(path, "LIBERO HDF5") as file:
        data = file.get("data")
        return isinstance(data, h5py.Group) and not any(name.startswith("demo_") for name in data)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def instruction(data: h5py.Group, path: Path) -> str:
    """The instruction of all demonstrations of a file, from the attributes of its group `data` or from its name."""
    text = _text(data.attrs.get("problem_info"))
    if text:
        said = parse_json(text, f"{path}: problem_info")
        words = said.get("language_instruction") if isinstance(said, dict) else None
        if not isinstance(words, str | list):
            raise UserError(f"{path}: problem_info: expected JSON with language_instruction, got {text[:80]}")
        return (" ".join(map(str, words)) if isinstance(words, list) else str(words)).strip().strip('"')
    name = Path(_text(data.attrs.get("bddl_file_name")) or path.name).stem.removesuffix("_demo")
    return re.sub(r"^[A-Z_]+_SCENE\d+_", "", name).replace("_", " ")


def write(
    path: Path, demos: Sequence[Demo], env_args: Mapping[str, Any], attributes: Mapping[str, Any], instruction: str
) -> None:
    """Write demonstrations with one instruction, completely or not at all; the rest as `robomimic.write`."""
    own = {"problem_info": _problem_info(instruction), "num_demos": np.int64(len(demos))}
    robomimic.write(path, demos, env_args, own | dict(attributes))


def _problem_info(instruction: str) -> str:
    return json.dumps({"language_instruction": instruction})


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write one file, or a folder with one for each instruction where there are several (a suite). Declared action
    ranges are lost. Raises `UserError` for data without instructions."""
    instructions = list(dict.fromkeys(store.tasks))
    if not instructions or not all(text.strip() for text in instructions):
        raise UserError(f"{path}: libero: expected an instruction for every episode, got none; choose another --format")
    with replacing(path) as temporary:
        if len(instructions) == 1:
            _write_task(temporary, store, np.arange(store.num_episodes))
            return
        temporary.mkdir()
        for number, text in enumerate(instructions):
            name = re.sub(r"\W+", "_", text).strip("_")[:100]  # names of files have at most 255 bytes
            episodes = np.flatnonzero([task == text for task in store.tasks])
            _write_task(temporary / f"{number:03d}_{name}_demo.hdf5", store, episodes)


def _write_task(path: Path, store: EpisodeStore, episodes: np.ndarray) -> None:
    """Write the file of the episodes of one instruction."""
    with h5py.File(path, "w") as file:
        env_args = dict(store.env_args)
        bddl = env_args.pop("bddl_file_name", "")
        # The instruction is that of the file, in `problem_info`.
        written = dataclasses.replace(store, env_args=env_args, tasks=(), checked=True)
        data = robomimic.write_episodes(file, written, episodes=episodes)
        data.attrs["bddl_file_name"] = bddl
        data.attrs["problem_info"] = _problem_info(store.tasks[episodes[0]])
        data.attrs["num_demos"] = np.int64(len(episodes))
        splits = {name: np.flatnonzero(np.isin(episodes, members)) for name, members in store.splits.items()}
        robomimic.write_masks(file, splits)
