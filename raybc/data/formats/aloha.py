"""ACT's HDF5 episodes, as ALOHA records them: a file an episode, or a folder of `episode_0.hdf5`, `episode_1.hdf5`, ...

https://github.com/tonyzhaozh/act. `action`; `observations/{qpos, qvel, effort}` under their names;
`observations/images/CAMERA` as `CAMERA`. Compressed images (the attribute `compress`) are JPEG or PNG files, padded
with zeros. All numbers are in the robot's units.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from raybc.data.bounds import check_memory
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, containers, flat
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.videos import decode_image
from raybc.files import replacing
from raybc.types import UserError

NAME = "aloha"
DESCRIPTION = "an HDF5 file with action and observations/qpos (ACT, ALOHA), or a folder of such files"
ACTIONS = ("action", "actions")
OBSERVATIONS, IMAGES = ("observations", "observation"), "images"
#: Other arrays of ALOHA's recorders that a policy could be asked for.
OTHERS = ("base_action",)
INSTRUCTIONS = ("language_instruction", "instruction", "language_raw", "task")
DIGITS = re.compile(r"(\d+)")


def files(path: Path) -> list[Path]:
    """The files of a folder in the order of the numbers in their names; the file itself where `path` is one."""
    if not path.is_dir():
        return [path]
    found = (p for p in path.iterdir() if p.suffix in (".hdf5", ".h5") and not p.name.startswith("."))
    return sorted(found, key=lambda p: [int(t) if t.isdecimal() else t for t in DIGITS.split(p.name)])


def matches(path: Path) -> bool:
    """Whether `path` is an episode of this layout, or a folder with one."""
    try:
        return any(_is_episode(each) for each in files(path))
    except OSError:
        return False


def _is_episode(path: Path) -> bool:
    names = containers.hdf5_names(path)
    if not {*ACTIONS} & names or names & set(flat.KNOWN):  # several episodes with end flags are D4RL's
        return False
    try:
        with h5py.File(path, "r") as file:
            return any(isinstance(file.get(name), h5py.Group) for name in OBSERVATIONS)
    except (OSError, RuntimeError, LookupError, ValueError):
        return False


def count(path: Path) -> int:
    """Number of episodes."""
    return len(files(path))


def about(path: Path) -> DatasetInfo:
    """Whether the episodes are of a simulator (ACT's attribute `sim`), of the first file; rewards of 0 and 1 are
    success."""
    with containers.opened_hdf5(files(path)[0], "HDF5") as file:
        sim = file.attrs.get("sim")
        simulated = {} if sim is None or np.ndim(sim) else {"sim": bool(sim)}
        return DatasetInfo(env_args=simulated, reward_is_success=True)


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in order. Raises `UserError` for what is missing, damaged or inconsistent."""
    found = files(path)
    if not found:
        raise UserError(f"{path}: expected HDF5 files with an episode each, found none")
    for each in found:
        name = each.name if path.is_dir() else "episode"
        yield base.read_episode(name, wanted, functools.partial(_read, each, name, wanted))


def _read(path: Path, name: str, wanted: ReadOptions) -> EpisodeChunk:
    with containers.opened_hdf5(path, "HDF5") as file:
        return _episode(file, path, name, wanted)


def _episode(file: Any, path: Path, name: str, wanted: ReadOptions) -> EpisodeChunk:
    action = wanted.keys.action or next((key for key in ACTIONS if key in file), ACTIONS[0])
    actions = containers.hdf5_values(file, action, str(path))
    group = next((key for key in OBSERVATIONS if isinstance(file.get(key), h5py.Group)), "")
    if not group:
        raise UserError(f"{path}: expected the group {OBSERVATIONS[0]!r}, got {sorted(file)}")
    obs: dict[str, np.ndarray] = {}
    for key, found in file[group].items():
        if isinstance(found, h5py.Dataset):
            if found.dtype.kind not in "fiub":
                wanted.observation(key, found, str(path))  # notes that text is left out
            elif found.ndim <= 2:
                obs[key] = containers.hdf5_values(file, f"{group}/{key}", str(path))
        elif key == IMAGES:
            for camera in found:
                if wanted.image(camera):
                    where = f"{path}: {group}/{IMAGES}/{camera}"
                    obs[camera] = _images(file, f"{group}/{IMAGES}/{camera}", where, len(actions))
    for key in (key for key in OTHERS if key in file and key != action):
        wanted.remarks.note("rest", key, "not read: no part of the action")
    reward = next((key for key in ("reward", "rewards") if key in file), None)
    words = next((_text(file.attrs.get(key)) for key in INSTRUCTIONS if key in file.attrs), "")
    return EpisodeChunk(
        name=name,
        obs=obs,
        actions=actions,
        rewards=None if reward is None else containers.hdf5_values(file, reward, str(path)),
        tasks=(words,) if words else (),
    )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _images(file: Any, key: str, where: str, steps: int) -> np.ndarray:
    """The images as they are, or decoded: uint8 (steps, H, W, 3)."""
    found = file[key]
    if not isinstance(found, h5py.Dataset) or len(found.shape or ()) not in (1, 2, 3, 4) or len(found) != steps:
        got = f"shape {found.shape}" if isinstance(found, h5py.Dataset) else "a group"
        raise UserError(f"{where}: expected {steps} images, got {got}")
    if found.ndim > 2:
        return containers.hdf5_values(file, key, where)  # as it is: `ReadOptions.observation` converts or refuses it
    if found.ndim == 1:  # bytes of variable length
        if found.external or found.is_virtual or found.dtype.kind not in "OSV":
            raise UserError(f"{where}: expected compressed images, got {found.dtype}")
        rows = [np.frombuffer(bytes(row), np.uint8) for row in found]
    else:
        rows = list(containers.hdf5_values(file, key, where).astype(np.uint8, copy=False))
    decoded: list[np.ndarray] = []
    for i, row in enumerate(rows):
        image = decode_image(row.tobytes(), f"{where}: step {i}")
        if not decoded:
            check_memory(image.nbytes * steps, where)
        elif image.shape != decoded[0].shape:
            raise UserError(f"{where}: expected images of one size, got {decoded[0].shape} and {image.shape}")
        decoded.append(image)
    return np.stack(decoded)


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write a folder with a file for each episode, images uncompressed. Splits, success, terminals, states and action
    ranges are lost."""
    with replacing(path) as temporary:
        temporary.mkdir(parents=True)
        for i, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True)):
            with h5py.File(temporary / f"episode_{i}.hdf5", "w") as file:
                file.attrs["sim"] = bool(store.env_args.get("sim", False))
                file["action"], file["reward"] = store.actions_NA[start:end], store.rewards_N[start:end]
                if store.tasks:
                    file.attrs[INSTRUCTIONS[0]] = store.tasks[i]
                for name, array in store.obs.items():
                    folder = f"{OBSERVATIONS[0]}/{IMAGES}" if name in store.images else OBSERVATIONS[0]
                    file[f"{folder}/{name}"] = array[start:end]
