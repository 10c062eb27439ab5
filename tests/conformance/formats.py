"""What every format must do: give back what was written, refuse what is damaged. A format joins with one `Case`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import lerobot_write
from tests.helpers import ENV_ARGS, tiny_store

LENGTHS = (5, 9, 3)
TASKS = ("push the cube",) * 3
#: What a store may have, and formats may carry.
ALL = frozenset({
    "names", "rewards", "terminals", "splits", "tasks", "success", "states", "env_args", "action_range", "frequency",
})  # fmt: skip


@dataclass(frozen=True)
class Case:
    """name: the file's or folder's. carries: what of `ALL` is read as it was written ("names": of observations; a
    format that has none calls all of them together `state`). images: whether it can hold them. main: the file to
    truncate, below the folder. drop: takes a key away; missing: that key, as messages name it. write: where
    it is not the format's `write_store`. needs: a package.
    """

    format: str
    name: str
    carries: frozenset[str]
    drop: Callable[[Path], None]
    missing: str
    images: bool = True
    main: str = ""
    write: Callable[[Path, EpisodeStore], None] | None = None
    needs: str = ""


def without_hdf5(name: str, file: str = "") -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        with h5py.File(path / file if file else path, "a") as file_:
            del file_[name]

    return drop


def without_npz(name: str) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        with np.load(path) as file:
            arrays = {k: file[k] for k in file.files if k != name}
        np.savez(path, **arrays)

    return drop


def without_column(name: str, file: str) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        import pyarrow.parquet as pq

        pq.write_table(pq.read_table(path / file).drop_columns([name]), path / file)

    return drop


def without_folder(name: str) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        (path / name / ".zarray").unlink()

    return drop


def without_file(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def without_feature(name: str) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        said = json.loads((path / "features.json").read_text())
        steps = said["featuresDict"]["features"]["steps"]["sequence"]["feature"]
        del steps["featuresDict"]["features"][name]
        (path / "features.json").write_text(json.dumps(said))

    return drop


def write_lerobot_v2(path: Path, store: EpisodeStore) -> None:
    lerobot_write.write_store(path, store, version="v2.1")


LEROBOT = frozenset({"rewards", "terminals", "splits", "tasks", "success", "names", "frequency"})

CASES = [
    Case(
        "robomimic",
        "a.hdf5",
        ALL - {"action_range"},
        without_hdf5("data/demo_1/actions"),
        "'actions'",
    ),
    Case(
        "libero",
        "a.hdf5",
        ALL - {"action_range"},
        without_hdf5("data/demo_1/actions"),
        "'actions'",
    ),
    Case(
        "aloha",
        "episodes",
        frozenset({"rewards", "tasks", "names"}),
        without_hdf5("action", "episode_1.hdf5"),
        "'action'",
        main="episode_1.hdf5",
    ),
    Case(
        "d4rl",
        "a.hdf5",
        frozenset({"rewards", "terminals", "splits", "states"}),
        without_hdf5("rewards"),
        "'rewards'",
        False,
    ),
    Case("ogbench", "a.npz", frozenset({"states", "splits"}), without_npz("terminals"), "'terminals'", False),
    Case("episode_ends", "a.npz", frozenset({"rewards", "splits", "names"}), without_npz("action"), "'action'"),
    Case(
        "episode_ends",
        "a.zarr",
        frozenset({"rewards", "splits", "names"}),
        without_folder("data/action"),
        "'action'",
        main="data/action/0.0",
    ),
    Case(
        "lerobot",
        "v3",
        LEROBOT,
        without_column("action", "data/chunk-000/file-000.parquet"),
        "'action'",
        main="data/chunk-000/file-000.parquet",
    ),
    Case(
        "lerobot",
        "v2",
        LEROBOT,
        without_column("action", "data/chunk-000/episode_000001.parquet"),
        "'action'",
        main="data/chunk-000/episode_000001.parquet",
        write=write_lerobot_v2,
    ),
    Case(
        "minari",
        "minari",
        frozenset({"rewards", "terminals", "states", "success", "action_range", "names"}),
        without_hdf5("episode_1/actions", "data/main_data.hdf5"),
        "actions",
        main="data/main_data.hdf5",
        needs="minari",
    ),
    Case(
        "rlds",
        "rlds",
        frozenset({"rewards", "splits", "terminals", "tasks", "names"}),
        without_feature("action"),
        "'steps/action'",
        main="converted-train.tfrecord-00000-of-00001",
    ),
    Case("store", "store", ALL, without_file("actions.npy"), "actions.npy", main="actions.npy"),
]


def full_store(images: bool = False, seed: int = 0) -> EpisodeStore:
    """Everything that a store can have, in three episodes."""
    rng = np.random.default_rng(seed)
    n = sum(LENGTHS)
    store = tiny_store(LENGTHS, seed, splits={"train": [0, 1], "valid": [2]})
    terminals = np.zeros(n, bool)
    terminals[LENGTHS[0] - 1] = True
    images = {"camera": rng.integers(0, 256, (n, 16, 24, 3), dtype=np.uint8)} if images else {}
    return EpisodeStore(
        obs={**store.obs, **images},
        actions_NA=store.actions_NA,
        rewards_N=store.rewards_N,
        episode_ends=store.episode_ends,
        splits=store.splits,
        env_args=ENV_ARGS,
        source=Path("full"),
        terminals_N=terminals,
        states_NS=rng.normal(size=(n, 4)),
        tasks=TASKS,
        success_E=np.array([True, False, True]),
        action_range=(np.full(2, -1, np.float32), np.ones(2, np.float32)),
        frequency=12.0,
    )
