"""Names of data sets -> where they are published, where they are expected on disk, and their format.

D4RL's names (`halfcheetah-medium-v2`), OGBench's (`cube-single-play-singletask-task1-v0`), robomimic's as
TASK-DATA-OBS (`lift-mh-low_dim`), Diffusion Policy's PushT (`pusht-human-low_dim`), LIBERO's suites (`libero_spatial`),
Minari's ids (`D4RL/pen/human-v2`), LeRobot's repositories (`lerobot/pusht`), or a path.
"""

from __future__ import annotations

import re
from pathlib import Path

from raybc.causes import missing
from raybc.data.dataset import Dataset
from raybc.data.download import Unreachable
from raybc.data.fetch import fetch
from raybc.envs import d4rl, ogbench
from raybc.files import expanded, home
from raybc.registry import get_task
from raybc.strict import did_you_mean
from raybc.types import UserError

D4RL = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
OGBENCH = "https://rail.eecs.berkeley.edu/datasets/ogbench"
PUSHT = "https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip"
ROBOMIMIC, LIBERO, MINARI = "robomimic/robomimic_datasets", "yifengzhu-hf/LIBERO-datasets", "farama-minari"

#: Files of D4RL's version 0 and of other families, which follow no rule.
_ADROIT_V0 = {"human": "{}-v0_demos_clipped", "cloned": "{}-demos-v0-bc-combined", "expert": "{}-v0_expert_clipped"}
_KITCHEN = {
    "complete": "mini_kitchen_microwave_kettle_light_slider-v0",
    "partial": "kitchen_microwave_kettle_light_slider-v0",
    "mixed": "kitchen_microwave_kettle_bottomburner_light-v0",
}
_MAZE = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
_MAZE_GOALS = {"": "False_multigoal_False", "play": "True_multigoal_False", "diverse": "True_multigoal_True"}
#: What robomimic publishes: task -> kinds of data.
_ROBOMIMIC = {
    **dict.fromkeys(("tool_hang",), ("ph",)),
    **dict.fromkeys(("square", "transport"), ("ph", "mh")),
    "lift": ("ph", "mh", "mg"),
    "can": ("ph", "mh", "mg", "paired"),
}
LIBERO_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
EXAMPLES = ("halfcheetah-medium-v2", "cube-single-play-v0", "lift-ph-low_dim", "lerobot/pusht", "D4RL/pen/human-v2")


def resolve(name: str) -> Dataset:
    """The data set called `name`; asks no server. Raises `UserError`, with similar names, for unknown ones."""
    path = expanded(name)
    if _is_there(path) or path.is_absolute() or name.startswith((".", "~")) or path.suffix:
        return Dataset(name, path)
    found = _by_suite(name)
    if found is not None:
        return found
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)+-v\d+", name) and name.count("/") >= 2:
        group, _, folder = name.partition("/")
        return Dataset(name, _place("minari", name), "minari", repository=f"{MINARI}/{group}", within=folder)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return Dataset(name, _place("lerobot", name), "lerobot", repository=name)
    known = [
        *EXAMPLES,
        *LIBERO_SUITES,
        *d4rl.DATASETS,
        *(f"{t}-{d}-low_dim" for t, ds in _ROBOMIMIC.items() for d in ds),
    ]
    raise UserError(f"unknown data {name!r} (and no such file): {did_you_mean(name, known)}")


def _is_there(path: Path) -> bool:
    """Whether there is anything at a path, also a link that leads nowhere and what may not be looked into."""
    try:
        return path.exists() or path.is_symlink()
    except OSError:
        return True


def is_published(name: str) -> bool:
    """Whether `name` is a data set of a suite that can be downloaded."""
    return _by_suite(name) is not None


def _place(*parts: str) -> Path:
    return home().joinpath("datasets", *parts)


def _by_suite(name: str) -> Dataset | None:
    if name in LIBERO_SUITES:
        return Dataset(name, _place("libero", name), "libero", repository=LIBERO, within=name)
    if name == "pusht-human-low_dim":
        path = _place("diffusion_policy", "pusht")
        return Dataset(name, path / "pusht_cchi_v7_replay.zarr", "episode_ends", (PUSHT,), task="pusht", archive=True)
    match = re.fullmatch(r"(\w+)-(ph|mh|mg|paired)-(low_dim(?:_sparse|_dense)?)", name)
    if match and match[2] in _ROBOMIMIC.get(match[1], ()):
        return _robomimic(name, *match.groups())
    if name in d4rl.DATASETS:
        url = d4rl_url(name)
        if url is None:
            raise UserError(f"{name}: D4RL never published this version; take another")
        found = d4rl.DATASETS[name]
        return Dataset(name, _place("d4rl", Path(url).name), "d4rl", (url,), task=found.task)
    env = ogbench.parse(name)
    if env is not None and env.data not in ("", "scripted"):
        plain = re.sub(r"-singletask(-task\d)?", "", name)
        urls = tuple(f"{OGBENCH}/{plain}{end}.npz" for end in ("", "-val"))
        return Dataset(name, _place("ogbench", f"{plain}.npz"), "ogbench", urls, task=env.task)
    return None


def _robomimic(name: str, task: str, data: str, kind: str) -> Dataset:
    """The files for robosuite 1.5; machine-generated ones have sparse rewards unless the name says dense."""
    if data == "mg" and kind == "low_dim":
        kind = "low_dim_sparse"
    file = f"v1.5/{task}/{data}/{kind}_v15.hdf5"
    return Dataset(name, _place("robomimic", file), "robomimic", repository=ROBOMIMIC, within=file, task=task)


def d4rl_url(name: str) -> str | None:
    """The address that D4RL publishes a data set at; None for names that it never published."""
    match = re.fullmatch(r"(?P<task>[a-z0-9]+?)-(?P<data>[a-z-]+)-v(?P<version>\d)", name)
    if match is None:
        return None
    task, data, version = match["task"], match["data"], int(match["version"])
    if task == "kitchen":
        return f"{D4RL}/kitchen/{_KITCHEN[data]}.hdf5" if data in _KITCHEN else None
    if task in ("pen", "door", "hammer", "relocate"):
        return (
            f"{D4RL}/hand_dapg_v1/{name}.hdf5" if version else f"{D4RL}/hand_dapg/{_ADROIT_V0[data].format(task)}.hdf5"
        )
    if task == "antmaze":
        if version == 1:
            return None
        size, _, goals = data.partition("-")
        folder, end = ("ant_maze_v2", "sparse_fixed") if version else ("ant_maze_new", "sparse")
        return f"{D4RL}/{folder}/Ant_maze_{_MAZE[size]}_noisy_multistart_{_MAZE_GOALS[goals]}_{end}.hdf5"
    stem = f"{task}_{data.replace('-', '_')}"
    if version:
        return f"{D4RL}/gym_mujoco_v{version}/{stem}-v{version}.hdf5"
    stem = stem.replace("medium_replay", "mixed").replace("walker2d_mixed", "walker_mixed")
    return f"{D4RL}/gym_mujoco/{stem}.hdf5"


def check_exists(name: str) -> Dataset:
    """The data set called `name`. Raises `UserError` if it is neither on this machine nor published."""
    found = resolve(name)
    if not (_is_there(found.path) or found.urls or found.repository):
        said = missing(found.path).replace("found none", "found no such file or folder")
        raise UserError(f"{found.path}: expected demonstrations, {said}")
    return found


def obtain(name: str, download: bool = True) -> Path:
    """The path of the data set called `name`, downloaded first if it is not on disk and `download` is true.

    Raises `UserError` with the address, the expected path and, where the task has a scripted expert, the command that
    makes a stand-in.
    """
    found = check_exists(name)
    if _is_there(found.path):
        return found.path
    reason = "is not on this machine"
    if download:
        try:
            fetch(found)
            return found.path
        except Unreachable as error:
            reason = f"could not be downloaded ({error})"
    raise UserError(
        f"{name} {reason}.\n  published at: {found.source}\n  expected at: {found.path}{_stand_in(found.task)}"
    )


def _stand_in(task: str) -> str:
    if not task or get_task(task).make_expert is None:
        return ""
    return f"\n  a stand-in by the task's scripted expert: python -m raybc.demos {task}"
