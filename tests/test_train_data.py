"""Trainings on data of other formats than the one that raybc writes, by path and by name."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.bundle import PolicyBundle
from raybc.config import DemosConfig, RunConfig
from raybc.data import formats, load
from raybc.data.formats import lerobot, lerobot_write
from raybc.data.load import read_for
from raybc.data.names import resolve
from raybc.demos.spec import source_of
from raybc.train.data import prepare
from raybc.types import UserError
from tests.helpers import CPU, run_train, tiny_config, tiny_data, tiny_store


@pytest.mark.parametrize("format", ["episode_ends", "lerobot", "libero", "minari", "rlds", "store"])
def test_any_format_is_the_same_training(format: str, pointmass_demos: Path, tmp_path: Path) -> None:
    """The point mass's demonstrations, written in another format, train to a policy of the same task. Formats differ in
    what they keep (splits, names of observations), so the weights need not be the same."""
    store = formats.read(pointmass_demos)
    store = dataclasses.replace(store, tasks=("go around",) * store.num_episodes)
    path = tmp_path / {"libero": "demos.hdf5", "episode_ends": "demos.npz"}.get(format, "demos")
    writer = lerobot_write if format == "lerobot" else formats.get(format)
    writer.write_store(path, store)  # type: ignore[attr-defined]  # every format's, see formats.base
    assert run_train(path, tmp_path / "run", "--eval_interval=0") == 0
    bundle = PolicyBundle.load(tmp_path / "run" / "final_model")
    assert bundle.action_size == store.actions_NA.shape[1]


def test_ogbench_dataset_dir(tmp_path: Path) -> None:
    rng, steps = np.random.default_rng(0), 20
    names = ("cube-single-play-v0", "cube-single-play-singletask-task1-v0")
    file = tmp_path / "cube-single-play-v0.npz"
    config = RunConfig.of(env_name=names[0], ogbench_dataset_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"ogbench_dataset_dir: expected the data of .* at .*cube-single-play-v0\.npz"):
        source_of(config, DemosConfig())
    terminals = np.zeros(steps, np.float32)
    terminals[[9, 19]] = 1
    np.savez(file, observations=rng.normal(size=(steps, 28)).astype(np.float32),
             actions=rng.uniform(-1, 1, (steps, 5)).astype(np.float32), terminals=terminals)  # fmt: skip
    for name in names:
        path, plan = source_of(RunConfig.of(env_name=name, ogbench_dataset_dir=str(tmp_path)), DemosConfig())
        assert (path, plan) == (file, None)
    assert read_for(file, resolve(names[0]).task).num_episodes == 2


def test_a_large_file_is_converted_once(pointmass_demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    monkeypatch.setattr(load, "MAX_BYTES_IN_MEMORY", os.path.getsize(pointmass_demos) - 1)
    small = formats.read(pointmass_demos)
    large = read_for(pointmass_demos, "pointmass")
    converted = list((tmp_path / "converted").iterdir())
    assert len(converted) == 1
    assert isinstance(large.actions_NA, np.memmap)
    assert large.fingerprint() == small.fingerprint()
    assert read_for(pointmass_demos, "pointmass").fingerprint() == small.fingerprint()
    assert list((tmp_path / "converted").iterdir()) == converted


def episodes_of(**changes: Any) -> list[int]:
    """Which of eight episodes are trained on; those with an even number succeeded, and later ones have more reward."""
    lengths = (3, 4, 5, 6, 3, 4, 5, 6)
    ends = np.cumsum(lengths)
    rewards = np.zeros(ends[-1], np.float32)
    rewards[ends - 1] = np.arange(8)
    success = np.arange(8) % 2 == 0
    store = tiny_store(lengths, splits={"train": range(7), "valid": [7]}, rewards_N=rewards, success_E=success)
    prepared = prepare(tiny_config(**changes), tiny_data(store), CPU)
    starts = prepared.rotation.at(0).starts.numpy()
    assert prepared.validation is not None
    held_out = set(np.searchsorted(ends, prepared.validation.starts.numpy(), side="right").tolist())
    found = sorted(set(np.searchsorted(ends, starts, side="right").tolist()))
    assert not held_out & set(found)
    return found


def test_which_episodes_are_trained_on() -> None:
    assert episodes_of() == list(range(7))
    assert episodes_of(dataset_proportion=0.5) == [0, 1, 2, 3]
    assert episodes_of(only_successful=True) == [0, 2, 4, 6]
    assert episodes_of(top_percent=30.0) == [5, 6]
    assert episodes_of(only_successful=True, top_percent=50.0, dataset_proportion=0.5) == [4]
    parts = [episodes_of(dataset_proportion=p, dataset_proportion_seed=3) for p in (0.2, 0.5, 1.0)]
    assert set(parts[0]) < set(parts[1]) < set(parts[2]) == set(range(7))
    assert parts[1] != episodes_of(dataset_proportion=0.5, dataset_proportion_seed=4)
    halves = episodes_of(holdout_seed=1)
    assert len(halves) == 6
    assert halves != episodes_of(holdout_seed=2)


def test_images_count_as_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video of a megabyte may be gigabytes in memory."""
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    data = tiny_store()
    frames = np.full((len(data.actions_NA), 64, 64, 3), 7, np.uint8)
    path = tmp_path / "set"
    lerobot_write.write_store(path, tiny_store(obs={**data.obs, "eye": frames}))
    assert load.size_on_disk(path) < frames.nbytes == lerobot.decoded_bytes(path)
    assert not isinstance(read_for(path, "", images=True, memory=frames.nbytes).obs["eye"], np.memmap)
    assert not isinstance(read_for(path, "", images=False, memory=frames.nbytes - 1).actions_NA, np.memmap)
    assert not list(tmp_path.glob("converted/*"))
    mapped = read_for(path, "", images=True, memory=frames.nbytes - 1)
    assert isinstance(mapped.obs["eye"], np.memmap)
    np.testing.assert_array_equal(mapped.obs["eye"], frames)


@pytest.mark.parametrize("shape", [None, "a", [64], [64, 64, "3"], [64, -1, 3]])
def test_shapes_that_are_none_take_no_memory(tmp_path: Path, shape: object) -> None:
    data = tiny_store()
    lerobot_write.write_store(tmp_path / "set", data)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"]["observation.images.eye"] = {"dtype": "image", "shape": shape}
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    assert lerobot.decoded_bytes(tmp_path / "set") == 0
