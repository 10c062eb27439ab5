"""What each format refuses, with file, key and episode; robomimic's own cases are in `test_data`."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from raybc.data import formats
from raybc.data.formats import lerobot_write
from raybc.data.videos import Video, write_video
from raybc.types import UserError
from tests.conformance.formats import full_store


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def refused(path: Path, format: str, *parts: str, **options: Any) -> None:
    with pytest.raises(UserError) as error:
        formats.read(path, format=format, **options)
    for part in (str(path), *parts):
        assert part in str(error.value)


# HDF5


def d4rl(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "observations": np.ones((6, 3), np.float32),
        "actions": np.ones((6, 2), np.float32),
        "rewards": np.ones(6, np.float32),
        "terminals": np.array([0, 0, 1, 0, 0, 1], bool),
        "timeouts": np.zeros(6, bool),
    }
    with h5py.File(path, "w") as file:
        for key, array in {**arrays, **changes}.items():
            file[key] = array
    return path


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"actions": np.ones((5, 2))}, ["actions: expected 6 rows as in observations", "(5, 2)"]),
        ({"timeouts": np.zeros(5)}, ["timeouts: expected 6 rows as in observations, got 5"]),
        ({"terminals": np.array([0, 0, 2, 0, 0, 1])}, ["terminals: expected zeros and ones"]),
        ({"terminals": np.zeros((6, 2))}, ["terminals: expected zeros and ones", "(6, 2)"]),
        ({"rewards": np.ones((6, 2))}, ["rewards: expected 1 dimension(s)", "2)"]),
        ({"actions": np.ones(6)}, ["actions: expected 2 dimension(s)"]),
        ({"actions": np.array([[b"a", b"b"]] * 6)}, ["actions: expected numbers, got dtype |S1"]),
        ({"observations": np.full((6, 3), np.nan)}, ["state: expected finite numbers", "episode 0"]),
        ({"terminals": np.zeros(6)}, ["expected at least one episode that ends"]),
        ({"observations": np.ones((0, 3)), "actions": np.ones((0, 2))}, ["rows as in observations"]),
    ],
)
def test_d4rl(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    refused(d4rl(tmp_path / "a.hdf5", **changes), "d4rl", *parts)


def link_outside(file: h5py.File) -> None:
    del file["rewards"]
    file["rewards"] = h5py.ExternalLink("other.hdf5", "/rewards")


def store_outside(file: h5py.File) -> None:
    """HDF5 would read any file of the machine as numbers."""
    del file["rewards"]
    file.create_dataset("rewards", (6,), "u1", external=[("/etc/hostname", 0, 6)])


def virtual(file: h5py.File) -> None:
    del file["rewards"]
    layout = h5py.VirtualLayout((6,), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "rewards", (6,))
    file.create_virtual_dataset("rewards", layout)


@pytest.mark.parametrize("change", [link_outside, store_outside, virtual])
def test_hdf5_that_points_to_other_files(tmp_path: Path, change: Callable[[h5py.File], None]) -> None:
    path = d4rl(tmp_path / "a.hdf5")
    d4rl(tmp_path / "other.hdf5")
    with h5py.File(path, "a") as file:
        change(file)
    refused(path, "d4rl", "rewards: expected data, got a")


def test_episodes_that_lie_in_other_files(tmp_path: Path) -> None:
    for name in ("a.hdf5", "b.hdf5"):
        formats.get("robomimic").write_store(tmp_path / name, full_store())
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        del file["data/demo_1"]
        file["data/demo_1"] = h5py.ExternalLink("b.hdf5", "/data/demo_1")
    refused(tmp_path / "a.hdf5", "robomimic", "demo_1", "a link")


@pytest.mark.parametrize("target", ["/", "/data", "/data/demo_1", "/data/demo_1/obs"])
def test_links_in_a_circle(target: str, tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    formats.get("robomimic").write_store(path, full_store())
    with h5py.File(path, "a") as file:
        file["data/demo_1/obs/again"] = h5py.SoftLink(target)
    refused(path, "robomimic", "demo_1", "obs")


def test_depths_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    formats.get("robomimic").write_store(path, full_store(images=True))
    with h5py.File(path, "a") as file:
        for name in file["data"]:
            steps = len(file[f"data/{name}/actions"])
            file[f"data/{name}/obs/depth"] = np.ones((steps, 4, 4, 1), np.float32)
    assert set(formats.read(path, images=True).obs) == {"arm", "cube", "camera"}
    refused(path, "robomimic", "demo_0: depth: expected images, uint8", "got float32 4 x 4 x 1", images=("depth",))


def test_libero_whose_instruction_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "KITCHEN_SCENE10_close_the_top_drawer_demo.hdf5"
    formats.get("libero").write_store(path, full_store())
    with h5py.File(path, "a") as file:
        file["data"].attrs["problem_info"] = "{}"
    refused(path, "libero", "problem_info", "language_instruction")
    with h5py.File(path, "a") as file:
        del file["data"].attrs["problem_info"], file["data"].attrs["bddl_file_name"]
    assert set(formats.read(path, format="libero").tasks) == {"close the top drawer"}


# npz


def ogbench(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "observations": np.ones((6, 3), np.float32),
        "actions": np.ones((6, 2), np.float32),
        "terminals": np.array([0, 0, 1, 0, 0, 1], np.float32),
    }
    np.savez(path, **{**arrays, **changes})
    return path


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"terminals": np.array([0, 0, 1, 0, 0, 0])}, ["terminals: expected 1 in the last row"]),
        ({"terminals": np.array([0, 0, 1, 1, 0, 1])}, ["episode 1: expected at least one action"]),
        ({"terminals": np.zeros(0)}, ["terminals"]),
        ({"terminals": np.array(list("abcdef"))}, ["terminals: expected zeros and ones"]),
        ({"actions": np.ones((5, 2))}, ["actions: expected 6 rows"]),
        ({"actions": np.array([["a"] * 2] * 6)}, ["actions: expected numbers, got dtype <U1"]),
    ],
)
def test_ogbench(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    refused(ogbench(tmp_path / "a.npz", **changes), "ogbench", *parts)


def test_objects_in_npz_are_never_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    objects = np.array([Bomb(trace)] * 6, dtype=object)
    refused(ogbench(tmp_path / "a.npz", actions=objects), "ogbench", "actions", "never unpickled")
    np.savez(tmp_path / "b.npz", action=objects, episode_ends=np.array([6]))
    refused(tmp_path / "b.npz", "episode_ends", "action", "never unpickled")
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Bomb(trace)))
    refused(tmp_path / "c.npz", "ogbench")
    refused(tmp_path / "c.npz", "")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"episode_ends": np.array([3, 2, 6])}, ["episode_ends: expected rising numbers up to 6"]),
        ({"episode_ends": np.array([3, 7])}, ["episode_ends: expected rising numbers up to 6"]),
        ({"episode_ends": np.array([3.0, 6.0])}, ["episode_ends: expected whole numbers"]),
        ({"episode_ends": np.zeros(0, int)}, ["episode_ends: expected whole numbers"]),
        ({"state": np.ones((5, 2))}, ["state: expected 6 rows as in action, got shape (5, 2)"]),
        ({"reward": np.ones((6, 2))}, ["rewards: expected 1 dimension(s)"]),
    ],
)
def test_episode_ends(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    arrays: dict[str, Any] = {"action": np.ones((6, 2)), "state": np.ones((6, 2)), "episode_ends": np.array([3, 6])}
    np.savez(tmp_path / "a.npz", **{**arrays, **changes})
    refused(tmp_path / "a.npz", "episode_ends", *parts)


# zarr


def zarr_meta(path: Path, **changes: Any) -> None:
    file = path / "data" / "action" / ".zarray"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_zarr(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.zarr", tmp_path / "trace"
    formats.get("episode_ends").write_store(path, full_store())
    chunk = path / "data" / "action" / "0.0"
    content = chunk.read_bytes()
    chunk.write_bytes(pickle.dumps(Bomb(trace)))
    pytest.importorskip("numcodecs")
    zarr_meta(path, filters=[{"id": "pickle", "protocol": 5}])
    refused(path, "episode_ends", "data/action: expected one of the codecs", "'pickle'")
    zarr_meta(path, filters=None, compressor={"id": "blosc"})
    refused(path, "episode_ends", "not readable as zarr")
    assert not trace.exists()
    chunk.write_bytes(content)
    zarr_meta(path, compressor=None, dtype="|O")
    refused(path, "episode_ends", "data/action: expected numbers")
    zarr_meta(path, dtype="<f4", chunks=[0, 0])
    refused(path, "episode_ends", "data/action: chunks: expected whole numbers from 1 on")
    outside = tmp_path / "outside"
    outside.write_bytes(content)
    chunk.unlink()
    chunk.symlink_to(outside)  # as in the cache of the hub
    zarr_meta(path, chunks=[17, 2])
    formats.read(path)
    zarr_meta(path, dimension_separator="/../")
    refused(path, "episode_ends", "data/action: expected the dimension_separator")


# LeRobot


@pytest.fixture
def lerobot(tmp_path: Path) -> Path:
    lerobot_write.write_store(tmp_path / "set", full_store(images=True))
    return tmp_path / "set"


@pytest.fixture
def lerobot_v2(tmp_path: Path) -> Path:
    lerobot_write.write_store(tmp_path / "set", full_store(images=True), version="v2.1")
    return tmp_path / "set"


def info(path: Path, **changes: Any) -> None:
    file = path / "meta" / "info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"codebase_version": "v1.6"}, ["codebase_version: expected v2.0, v2.1 or v3.0", "v1.6"]),
        ({"data_path": "../other/{chunk_index}.parquet"}, ["data_path: expected a file of this folder"]),
        ({"video_path": "/etc/hostname"}, ["video_path: expected a file of this folder"]),
        ({"data_path": "{nothing}"}, ["data_path: not readable as a path"]),
        ({"total_episodes": 4}, ["total_episodes: expected 4 episodes, meta/ describes 3"]),
        ({"features": {}}, ["expected 'action'"]),
        ({"features": {"action": 1}}, ["features: action: expected a mapping"]),
        ({"fps": None}, ["expected the key 'fps'"]),
        ({"splits": {"train": "all"}}, ["splits: train: expected FIRST:END"]),
        (
            {"splits": {"train": "0:9"}},
            ["splits: train: expected a range of the 3 episodes", "got 0:9; correct it to 0:3"],
        ),
        ({"splits": {"train": "0:99999999999"}}, ["splits: train: expected a range of the 3 episodes"]),
        ({"splits": {"train": f"0:{'9' * 5000}"}}, ["splits: train: expected FIRST:END"]),
        ({"total_episodes": 10**11}, ["total_episodes: expected a number from 0 to 1e+08"]),
        ({"total_episodes": 3.0}, ["total_episodes"]),
        ({"fps": 0}, ["fps: expected a number from 0.001 to 1e+06, got 0"]),
        ({"fps": True}, ["fps: expected a number"]),
        ({"features": []}, ["expected the key 'features'"]),
    ],
)
def test_lerobots_info(lerobot: Path, changes: dict[str, Any], parts: list[str]) -> None:
    info(lerobot, **changes)
    refused(lerobot, "lerobot", *parts)


def test_lerobots_tables(lerobot: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = lerobot / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)

    def edited(**columns: Any) -> None:
        changed = table
        for name, values in columns.items():
            changed = changed.set_column(table.column_names.index(name), name, values)
        pq.write_table(changed, file)

    pq.write_table(table.slice(0, 15), file)
    refused(lerobot, "lerobot", "file-000.parquet: episode 2: expected 3 steps as meta/ says, got 1")
    edited(task_index=pa.array([7] * 17))
    refused(lerobot, "lerobot", "episode 0: task_index: expected one of [0], got 7")
    edited(action=pa.array([[1.0, 2.0]] * 16 + [[1.0]]))
    refused(lerobot, "lerobot", "episode 2: action: expected lists of one length")
    edited(action=pa.array([[1.0, 2.0]] * 16 + [None]))
    refused(lerobot, "lerobot", "episode 2: action: expected numbers, got empty cells")
    edited(action=pa.array(["a"] * 17))
    refused(lerobot, "lerobot", "action: expected numbers, got string")
    pq.write_table(table, file)
    (lerobot / "meta" / "tasks.parquet").unlink()
    refused(lerobot, "lerobot", "tasks.parquet: expected a parquet file")


def test_lerobots_lines(lerobot_v2: Path) -> None:
    file = lerobot_v2 / "meta" / "episodes.jsonl"
    text = file.read_text()
    file.write_text(text + "{")
    refused(lerobot_v2, "lerobot", "episodes.jsonl: line 4: not readable as JSON")
    file.write_text(text + '{"length": 3}\n')
    refused(lerobot_v2, "lerobot", "line 4: expected the keys episode_index, length")
    file.unlink()
    refused(lerobot_v2, "lerobot", "episodes.jsonl: expected a file of LeRobot v2, found none")


def test_a_missing_video_is_an_error_where_its_frames_are_asked_for(lerobot: Path) -> None:
    video = next(lerobot.rglob("*.mp4"))
    content = video.read_bytes()
    for part in (0.0, 0.3, 0.6, 0.9):
        video.write_bytes(content[: int(part * len(content))])
        assert formats.read(lerobot).num_episodes == 3
        refused(lerobot, "lerobot", ".mp4", images=True)
    video.unlink()
    assert formats.read(lerobot).num_episodes == 3
    refused(lerobot, "lerobot", "expected the video of the requested images, found none", images=True)


def test_images_in_the_table(lerobot: Path, tmp_path: Path) -> None:
    import av
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = full_store(images=True)
    cells = []
    for i, frame in enumerate(store.obs["camera"]):
        path = tmp_path / "frame.png"
        av.VideoFrame.from_ndarray(frame, format="rgb24").save(path)
        cells.append({"bytes": path.read_bytes() if i else None, "path": "images/0.png"})
        if i == 0:
            (lerobot / "images").mkdir()
            path.rename(lerobot / "images" / "0.png")
    file = lerobot / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("observation.images.camera", pa.array(cells)), file)
    features = json.loads((lerobot / "meta" / "info.json").read_text())["features"]
    features["observation.images.camera"]["dtype"] = "image"
    info(lerobot, features=features)
    np.testing.assert_array_equal(formats.read(lerobot, images=True).obs["camera"], store.obs["camera"])
    cells[0]["path"] = "../frame.png"
    pq.write_table(table.append_column("observation.images.camera", pa.array(cells)), file)
    refused(lerobot, "lerobot", "observation.images.camera: expected a file of this folder", images=True)
    cells[0] = {"bytes": b"\x89PNG and no more", "path": None}
    pq.write_table(table.append_column("observation.images.camera", pa.array(cells)), file)
    refused(lerobot, "lerobot", "not readable as an image", images=True)


def test_videos_go_back_and_count_their_frames(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    path = tmp_path / "a.mp4"
    write_video(path, frames, fps=10)
    video = Video(path, 10)
    for first, count in ((4, 3), (7, 2), (0, 5), (11, 1)):
        np.testing.assert_array_equal(video.read(first, count), frames[first : first + count])
    with pytest.raises(UserError, match="expected at least 13 frames, got 12"):
        video.read(10, 3)
    with pytest.raises(UserError, match=r"frame \d+: expected at"):
        Video(path, 25).read(0, 12)


# Minari


def test_minari_never_builds_the_environment_that_a_file_names(tmp_path: Path) -> None:
    pytest.importorskip("minari", reason="pip install 'raybc[minari]'")
    path = tmp_path / "set"
    formats.get("minari").write_store(path, full_store())
    file = path / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["observation_space"]
    file.write_text(json.dumps({**metadata, "env_spec": '{"id": "Evil-v0", "entry_point": "evil:Evil"}'}))
    refused(path, "minari", "metadata.json: expected the key 'observation_space'")
