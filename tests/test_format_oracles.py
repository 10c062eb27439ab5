"""Formats against the libraries that define them, and real data as it was published."""

from __future__ import annotations

import ast
import collections
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from raybc.data import formats
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import lerobot_write
from raybc.data.formats import robomimic as robomimic_format
from raybc.types import UserError
from tests.conformance.formats import full_store

ORACLES = Path(sys.prefix) / "oracles"


def episodes(store: EpisodeStore) -> list[slice]:
    return [slice(int(a), int(b)) for a, b in zip(store.episode_starts, store.episode_ends, strict=True)]


# D4RL


def d4rl_function(name: str) -> Any:
    """A function of d4rl's `__init__`; importing it would need MuJoCo 2.1."""
    if not (ORACLES / "d4rl").exists():
        pytest.skip("the d4rl package is missing: make oracles")
    module = ast.parse((ORACLES / "d4rl" / "__init__.py").read_text())
    module.body = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    scope: dict[str, Any] = {"np": np, "collections": collections}
    exec(compile(module, "d4rl", "exec"), scope)
    return scope[name]


def d4rl_file(path: Path, with_timeouts: bool = True) -> dict[str, np.ndarray]:
    """Flat data whose episodes end by terminals, by timeouts, by both, and not at all at the end."""
    rng = np.random.default_rng(0)
    n = 60
    arrays: dict[str, np.ndarray] = {
        "observations": rng.normal(size=(n, 4)),  # float64, as Adroit's
        "actions": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": np.isin(np.arange(n), (9, 29)),
        "timeouts": np.isin(np.arange(n), (19, 29, 49)),
    }
    if not with_timeouts:
        del arrays["timeouts"]
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return arrays


def test_d4rl_is_what_its_sequence_dataset_gives(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    arrays = d4rl_file(path)
    expected = list(d4rl_function("sequence_dataset")(None, arrays))
    store = formats.read(path)
    assert store.num_episodes == len(expected) == 4
    assert store.episode_ends[-1] == 50, "the rows after the last end are dropped"
    for rows, episode in zip(episodes(store), expected, strict=True):
        np.testing.assert_array_equal(store.obs["state"][rows], episode["observations"].astype(np.float32))
        np.testing.assert_array_equal(store.actions_NA[rows], episode["actions"])
        np.testing.assert_array_equal(store.rewards_N[rows], episode["rewards"])
        assert store.terminals_N is not None
        np.testing.assert_array_equal(store.terminals_N[rows], episode["terminals"])


def test_d4rl_qlearning_dataset_is_the_same_transitions(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    arrays = d4rl_file(path)
    expected = d4rl_function("qlearning_dataset")(None, arrays, terminate_on_end=True)
    store = formats.read(path)
    np.testing.assert_array_equal(store.obs["state"], expected["observations"][:50])
    np.testing.assert_array_equal(store.actions_NA, expected["actions"][:50])


def test_d4rl_without_timeouts_needs_the_step_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    d4rl_file(path, with_timeouts=False)
    assert formats.read(path).episode_ends.tolist() == [10, 30]
    assert formats.read(path, step_limit=15).episode_ends.tolist() == [10, 25, 30, 45, 60]
    with h5py.File(path, "a") as file:
        file["terminals"][:] = False
    assert formats.read(path, step_limit=20).episode_ends.tolist() == [20, 40, 60]
    with pytest.raises(UserError, match="no timeouts; pass the environment's step_limit"):
        formats.read(path)


# OGBench


def ogbench_file(path: Path, seed: int, visual: bool = False) -> None:
    rng = np.random.default_rng(seed)
    n = 30
    terminals = np.isin(np.arange(n), (6, 14, 29)).astype(np.float32)
    observations = rng.integers(0, 256, (n, 8, 8, 3), np.uint8) if visual else rng.normal(size=(n, 5))
    more = {
        "qpos": rng.normal(size=(n, 3)),
        "qvel": rng.normal(size=(n, 2)),
        "button_states": rng.integers(0, 2, (n, 1)),
    }
    np.savez_compressed(path, observations=observations, actions=rng.normal(size=(n, 2)), terminals=terminals, **more)


@pytest.mark.parametrize("visual", [False, True])
def test_ogbench_is_what_its_load_dataset_gives(tmp_path: Path, visual: bool) -> None:
    utils = pytest.importorskip("ogbench.utils", reason="pip install 'raybc[ogbench]'")
    files = [tmp_path / "cube-single-play-v0.npz", tmp_path / "cube-single-play-v0-val.npz"]
    for seed, path in enumerate(files):
        ogbench_file(path, seed, visual)
    store = formats.read(files[0], states=True)
    assert {k: v.tolist() for k, v in store.splits.items()} == {"train": [0, 1, 2], "valid": [3, 4, 5]}
    dtype = np.uint8 if visual else np.float32
    loaded = [utils.load_dataset(str(path), ob_dtype=dtype, add_info=True) for path in files]
    both = {k: np.concatenate([part[k] for part in loaded]) for k in loaded[0]}
    np.testing.assert_array_equal(store.obs["pixels" if visual else "state"], both["observations"])
    np.testing.assert_array_equal(store.actions_NA, both["actions"])
    np.testing.assert_array_equal(np.flatnonzero(both["terminals"]) + 1, store.episode_ends)
    states = np.concatenate([both[k] for k in ("qpos", "qvel", "button_states")], axis=1)
    np.testing.assert_array_equal(store.states_NS, states)
    assert formats.read(files[1]).num_episodes == 3


def test_a_folder_of_ogbench_shards_is_one_set(tmp_path: Path) -> None:
    from raybc.data.formats import ogbench

    for i in range(3):
        ogbench_file(tmp_path / f"cube-{i:03d}.npz", i)
        ogbench_file(tmp_path / f"cube-{i:03d}-val.npz", 10 + i)
    store = formats.read(tmp_path)
    assert store.num_episodes == 18
    assert store.splits["valid"].tolist() == list(range(9, 18))
    shards = ogbench.shards(tmp_path)
    assert [p.name for p in shards] == ["cube-000.npz", "cube-001.npz", "cube-002.npz"]
    np.testing.assert_array_equal(store.actions_NA[27:54], formats.read(shards[1]).actions_NA[:27])


# Minari


def test_minari_is_what_minari_iterates(tmp_path: Path) -> None:
    minari = pytest.importorskip("minari", reason="pip install 'raybc[minari]'")
    store = full_store()
    formats.get("minari").write_store(tmp_path / "set", store)
    dataset = minari.MinariDataset(tmp_path / "set" / "data")
    got = formats.read(tmp_path / "set")
    assert dataset.total_steps == len(got.actions_NA)
    for rows, episode in zip(episodes(got), dataset.iterate_episodes(), strict=True):
        for key in store.obs:
            np.testing.assert_array_equal(got.obs[key][rows], episode.observations[key][:-1])
        np.testing.assert_array_equal(got.actions_NA[rows], episode.actions)
        np.testing.assert_array_equal(got.rewards_N[rows], episode.rewards)


def test_minaris_own_writing_with_nested_dicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari", reason="pip install 'raybc[minari]'")
    import gymnasium
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    box = gymnasium.spaces.Box
    space = gymnasium.spaces.Dict(
        {"goal": gymnasium.spaces.Dict({"kettle": box(-1, 1, (2,))}), "robot": box(-1, 1, (3,))}
    )
    rng = np.random.default_rng(0)
    observations = {"goal": {"kettle": rng.random((6, 2))}, "robot": rng.random((6, 3))}
    buffer = EpisodeBuffer(
        observations=observations, actions=rng.random((5, 2)), rewards=[0.0] * 5, terminations=[False] * 5,
        truncations=[False] * 4 + [True],
    )  # fmt: skip
    minari.create_dataset_from_buffers(
        "d4rl/kettle-v0", [buffer], observation_space=space, action_space=box(-2, 2, (2,)), algorithm_name="none",
        code_permalink="none", author="none", author_email="none",
    )  # fmt: skip
    store = formats.read(tmp_path / "d4rl" / "kettle-v0")
    assert {k: v.shape for k, v in store.obs.items()} == {"goal/kettle": (5, 2), "robot": (5, 3)}
    np.testing.assert_array_equal(store.obs["robot"], observations["robot"][:-1].astype(np.float32))
    assert store.action_range is not None
    assert [a.tolist() for a in store.action_range] == [[-2, -2], [2, 2]]


# robomimic


def test_robomimic_is_what_its_sequence_dataset_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ORACLES / "robomimic").exists():
        pytest.skip("the robomimic package is missing: make oracles")
    monkeypatch.syspath_prepend(str(ORACLES))
    pytest.importorskip("psutil")
    dataset = pytest.importorskip("robomimic.utils.dataset")
    obs_utils = pytest.importorskip("robomimic.utils.obs_utils")
    path = tmp_path / "a.hdf5"
    robomimic_format.write_store(path, full_store(images=True))
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["arm", "cube"], "rgb": ["camera"]}})
    monkeypatch.setattr(dataset.ObsUtils, "process_obs", lambda obs, **_: obs)  # as stored, not for a network
    for split in ("train", "valid"):
        theirs = dataset.SequenceDataset(
            str(path), obs_keys=("arm", "cube", "camera"), dataset_keys=("actions", "rewards", "dones"),
            filter_by_attribute=split, hdf5_cache_mode=None, hdf5_use_swmr=False, load_next_obs=False,
        )  # fmt: skip
        ours = robomimic_format.read(path, images=True)
        rows = np.concatenate([np.arange(len(ours.actions_NA))[episodes(ours)[e]] for e in ours.split(split)])
        items = [theirs[i] for i in range(len(theirs))]
        assert len(items) == len(rows)
        for key in ("arm", "cube", "camera"):
            np.testing.assert_array_equal(np.concatenate([item["obs"][key] for item in items]), ours.obs[key][rows])
        np.testing.assert_array_equal(np.concatenate([item["actions"] for item in items]), ours.actions_NA[rows])
        np.testing.assert_array_equal(np.concatenate([item["rewards"] for item in items]), ours.rewards_N[rows])


# zarr


@pytest.mark.parametrize("codec", ["none", "blosc", "zlib"])
@pytest.mark.parametrize("packed", [False, True])
def test_zarr_is_what_the_zarr_package_writes(
    tmp_path: Path, codec: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (ORACLES / "zarr").exists():
        pytest.skip("the zarr package is missing: make oracles")
    monkeypatch.syspath_prepend(str(ORACLES))
    zarr = pytest.importorskip("zarr")
    numcodecs = pytest.importorskip("numcodecs", reason="pip install 'raybc[zarr]'")
    compressor = {"none": None, "blosc": numcodecs.Blosc("zstd", 5, 2), "zlib": numcodecs.Zlib(1)}[codec]
    path = tmp_path / ("a.zarr.zip" if packed else "a.zarr")
    target = zarr.storage.ZipStore(path, mode="w") if packed else path
    group = zarr.open_group(target, mode="w", zarr_format=2)
    rng = np.random.default_rng(0)
    arrays = {
        "data/state": rng.normal(size=(25, 5)).astype(np.float32),
        "data/action": rng.normal(size=(25, 2)),
        "data/keypoint": rng.normal(size=(25, 9, 2)).astype(np.float32),
        "data/img": rng.integers(0, 256, (25, 6, 6, 3)).astype(np.float32),
        "data/still": np.zeros((25, 2), np.float32),  # chunks of nothing but the fill value
        "meta/episode_ends": np.array([7, 25]),
    }
    for name, array in arrays.items():
        chunks = (4, *array.shape[1:-1], 2) if array.ndim > 1 else (4,)
        made = group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunks, compressors=compressor)
        made[...] = array
    if packed:
        target.close()
    store = formats.read(path, images=True)
    assert store.episode_ends.tolist() == [7, 25]
    np.testing.assert_array_equal(store.actions_NA, arrays["data/action"].astype(np.float32))
    np.testing.assert_array_equal(store.obs["keypoint"], arrays["data/keypoint"].reshape(25, 18))
    np.testing.assert_array_equal(store.obs["state"], arrays["data/state"])
    np.testing.assert_array_equal(store.obs["img"], arrays["data/img"])
    assert store.obs["img"].dtype == np.uint8
    assert not store.obs["still"].any()


# LeRobot

LEROBOT = """
import sys, numpy, torch
from pathlib import Path
made = torch.library.Library("torchvision", "DEF")  # torchvision beside a CPU torch lacks these
for name in ("nms", "qnms"):
    made.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import av
from lerobot.datasets import lerobot_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset

def frames_at(path, times, *_):  # torchvision's reader is gone; which times of which file is still LeRobot's answer
    with av.open(str(path)) as video:
        frames = {round(f.time, 4): f.to_ndarray(format="rgb24") for f in video.decode(video=0)}
    return torch.stack([torch.from_numpy(frames[round(t, 4)]).permute(2, 0, 1) / 255 for t in times])

lerobot_dataset.decode_video_frames = frames_at
data = LeRobotDataset("a/b", root=sys.argv[1])
items = [data[i] for i in range(len(data))]
arrays = {k: torch.stack([i[k] for i in items]).numpy() for k in items[0] if k != "task"}
numpy.savez(sys.argv[2], task=[i["task"] for i in items], **arrays)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("version", "package"), [("v3.0", "lerobot"), ("v2.1", "lerobot_v21")])
def test_lerobot_reads_the_same(version: str, package: str, tmp_path: Path) -> None:
    """Its own package reads what is written here; in a process of its own, as it needs other packages' versions."""
    needs = ORACLES / "lerobot_with_needs"
    paths = [needs] if package == "lerobot" else [ORACLES / package, needs]
    if not all(path.exists() for path in paths):
        pytest.skip(f"the lerobot package for {version} is missing: see docs/data.md")
    lerobot_write.write_store(tmp_path / "set", full_store(images=True), version=version)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"}
    environment["HF_HOME"] = str(tmp_path / "hf")
    command = [sys.executable, "-c", LEROBOT, str(tmp_path / "set"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = formats.read(tmp_path / "set", images=True)
    with np.load(tmp_path / "out.npz") as theirs:
        images = theirs["observation.images.camera"].transpose(0, 2, 3, 1) * 255
        np.testing.assert_array_equal(images.round().astype(np.uint8), ours.obs["camera"])
        np.testing.assert_array_equal(theirs["observation.arm"], ours.obs["arm"])
        np.testing.assert_array_equal(theirs["action"], ours.actions_NA)
        np.testing.assert_array_equal(theirs["next.reward"], ours.rewards_N)
        np.testing.assert_array_equal(np.flatnonzero(np.diff(theirs["episode_index"])) + 1, ours.episode_ends[:-1])
        assert set(theirs["task"].tolist()) == set(ours.tasks)


# Real data


def test_the_published_pusht_is_read_without_its_video(human_pusht: Path) -> None:
    import pyarrow.parquet as pq

    store = formats.read(human_pusht)
    table = pq.read_table(human_pusht / "data" / "chunk-000" / "file-000.parquet")
    assert store.num_episodes == 206
    np.testing.assert_array_equal(store.obs["state"], np.array(table["observation.state"].to_pylist(), np.float32))
    np.testing.assert_array_equal(store.actions_NA, np.array(table["action"].to_pylist(), np.float32))
    np.testing.assert_array_equal(store.rewards_N, np.array(table["next.reward"].to_pylist(), np.float32))
    assert store.terminals_N is not None
    assert store.terminals_N[store.episode_ends - 1].all(), "as recorded: the step before the last is marked, too"
    assert set(store.tasks) == {"Push the T-shaped block onto the T-shaped target."}
    with pytest.raises(UserError, match=r"file-000\.mp4: expected the video of the requested images"):
        formats.read(human_pusht, images=True)


def test_the_same_episodes_as_npz_agree(human_pusht: Path, human_pusht_npz: Path) -> None:
    theirs = formats.read(human_pusht)
    ours = formats.read(human_pusht_npz)
    np.testing.assert_array_equal(ours.episode_ends, theirs.episode_ends)
    np.testing.assert_array_equal(ours.actions_NA, theirs.actions_NA)
    np.testing.assert_allclose(ours.obs["state"][:, :2], theirs.obs["state"], atol=1e-4)


def test_the_human_lift_demonstrations_are_read(human_lift: Path) -> None:
    store = formats.read(human_lift, states=True)
    assert store.fingerprint() == "3be9e10025a5f693dbb498a7b3c72cce85a6b5d8f6bd8fd778b1f8117399f866"
    assert (store.num_episodes, len(store.actions_NA)) == (8, 3746)
    assert store.success_E is not None
    assert store.success_E.all()
    assert store.states_NS is not None
    assert store.states_NS.shape == (3746, 32)
