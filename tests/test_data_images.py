"""One notion of an image for all formats: converted where that is certain, left out or refused by name where not."""

from __future__ import annotations

import io
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raybc.cli import run_main
from raybc.data import formats
from raybc.data.__main__ import main
from raybc.data.formats import lerobot_write, robomimic
from raybc.data.formats.images import NotCertain, Unfit, as_image, is_image, resembles_image
from raybc.data.scan import source_of
from raybc.data.verify import verify
from raybc.data.videos import decode_image, encode_png, write_video
from raybc.types import UserError
from tests.helpers import tiny_store

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 255, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "array",
    [
        pixels(5, 3, 16, 20), pixels(5, 1, 16, 20), pixels(5, 16, 20), pixels(5, 16, 20, 4),
        RNG.uniform(0, 1, (5, 16, 20, 3)), RNG.uniform(0, 1, (5, 3, 16, 20)), pixels(5, 16, 20, 3).astype(np.float32),
        pixels(5, 16, 20, 3).astype(np.int64), np.zeros((5, 16, 20, 3)),
    ],
)  # fmt: skip
def test_what_is_certain_is_converted(array: np.ndarray) -> None:
    assert resembles_image(array.shape, array.dtype)
    image, how = as_image("eye", array, {})
    assert is_image(image)
    assert image.shape[:3] == (5, 16, 20)
    assert how.startswith("converted")
    if array.dtype == np.float32:
        np.testing.assert_array_equal(image, array.astype(np.uint8))


@pytest.mark.parametrize(
    ("array", "error", "text"),
    [
        (pixels(5, 4, 16, 20), NotCertain, "4 x 16 x 20: four grey images, or four channels first"),
        (pixels(5, 12, 16, 20), NotCertain, "a stack of images"),
        (pixels(5, 2, 16, 20, 3), NotCertain, "a stack of images"),
        (RNG.normal(size=(5, 16, 20, 3)), NotCertain, "expected 0 to 1, or 0 to 255"),
        (RNG.uniform(0, 255, (5, 16, 20, 3)), NotCertain, "may be 1 or 255"),
        (RNG.integers(0, 2, (5, 16, 20, 3)).astype(float), NotCertain, "may be 1 or 255"),
        (pixels(5, 16, 20).astype(np.uint16), Unfit, "depth or more than 8 bits"),
        (RNG.uniform(0, 1, (5, 16, 20, 1)), Unfit, "depth or more than 8 bits"),
        (pixels(5, 16, 20, 3).astype(np.uint16) * 200, Unfit, "more than 8 bits"),
        (np.ones((5, 16, 20), bool), Unfit, "a mask"),
    ],
)
def test_what_is_not_certain_is_named(array: np.ndarray, error: type[Exception], text: str) -> None:
    assert resembles_image(array.shape, array.dtype)
    with pytest.raises(error, match=text) as raised:
        as_image("eye", array, {})
    assert type(raised.value) is error


@pytest.mark.parametrize("shape", [(5, 7), (5, 4, 4), (5, 9, 2), (5, 7, 7), (5,)])
def test_small_matrices_of_numbers_are_no_images(shape: tuple[int, ...]) -> None:
    assert not resembles_image(shape, np.dtype(np.float32))


def test_all_episodes_have_one_white() -> None:
    scales: dict[str, float] = {}
    as_image("eye", RNG.uniform(0, 1, (5, 8, 8, 3)), scales)
    dark, _ = as_image("eye", np.ones((5, 8, 8, 3)), scales)
    assert dark.max() == 255, "zeros and ones are certain where another episode has shown the range"
    with pytest.raises(NotCertain, match="white of 1"):
        as_image("eye", pixels(5, 8, 8, 3).astype(float), scales)


def with_images(path: Path, **images: tuple[np.dtype | type, tuple[int, ...], float]) -> Path:
    """The tiny demonstrations of robomimic with observations of dtype, shape and highest value."""
    robomimic.write_store(path, tiny_store())
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            for name, (dtype, shape, high) in images.items():
                demo[f"obs/{name}"] = RNG.uniform(0, high, (len(demo["actions"]), *shape)).astype(dtype)
    return path


def test_a_file_of_robomimic(tmp_path: Path) -> None:
    path = with_images(
        tmp_path / "a.hdf5", first=(np.uint8, (3, 16, 20), 255), grey=(np.uint8, (16, 20), 255),
        part=(np.float32, (16, 20, 3), 1), eye_depth=(np.float32, (16, 20, 1), 3), wide=(np.uint16, (16, 20), 2000),
    )  # fmt: skip
    read = formats.read(path, images=True)
    assert {k: read.obs[k].shape[1:] for k in read.images} == {
        "first": (16, 20, 3), "grey": (16, 20, 1), "part": (16, 20, 3),
    }  # fmt: skip
    assert {n.key for n in read.notes if n.kind == "image"} == {"eye_depth", "wide"}
    found = verify(source_of(str(path)), images=True).findings
    assert {(f.severity, f.kind, f.key) for f in found} == {
        ("warning", "image", "eye_depth"),
        ("warning", "image", "wide"),
    }
    assert set(formats.read(path).obs) == {"arm", "cube"}
    with pytest.raises(UserError, match="demo_0: wide: expected images, uint8"):
        formats.read(path, images=("wide",))


def test_images_that_are_not_certain_are_refused_unless_others_are_named(tmp_path: Path) -> None:
    path = with_images(tmp_path / "a.hdf5", stack=(np.uint8, (4, 16, 20), 255), eye=(np.uint8, (16, 20, 3), 255))
    with pytest.raises(UserError, match=r"stack: expected images.*--image_keys"):
        formats.read(path, images=True)
    assert formats.read(path, images=("eye",)).images == ("eye",)
    read = formats.read(path, images=True, needed=("eye",))
    assert read.images == ("eye",)
    assert [n.key for n in read.notes if n.kind == "image"] == ["stack"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_its_channels(channels: int) -> None:
    image = pixels(8, 10, channels)
    np.testing.assert_array_equal(decode_image(encode_png(image), "here", channels), image)


def png16(image: np.ndarray) -> bytes:
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = image.shape[1], image.shape[0], "gray16be", Fraction(1)
    packets = [*codec.encode(av.VideoFrame.from_ndarray(image, format="gray16be")), *codec.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def deep_video(path: Path, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx265", rate=10, options={"x265-params": "lossless=1:log-level=0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray12le"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64), 40 * i, np.uint16), format="gray12le")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def declare(path: Path, feature: str, **declared: object) -> None:
    info = json.loads((path / "meta/info.json").read_text())
    info["features"][feature] = declared
    (path / "meta/info.json").write_text(json.dumps(info))


@pytest.mark.parametrize("declared", [True, False])
def test_depth_in_videos_is_not_read(declared: bool, tmp_path: Path) -> None:
    path = tmp_path / "set"
    lerobot_write.write_store(path, tiny_store(), version="v2.1")
    info = {"video.is_depth_map": True} if declared else {}
    declare(path, "observation.images.far", dtype="video", shape=[64, 64, 1], names=None, info=info)
    for i, n in enumerate((5, 9, 3)):
        deep_video(path / f"videos/chunk-000/observation.images.far/episode_{i:06d}.mp4", n)
    read = formats.read(path, images=True)
    assert read.images == ()
    assert [n.key for n in read.notes if n.kind == "image"] == ["far"]
    with pytest.raises(UserError, match="far: expected images"):
        formats.read(path, images=("far",))
    assert [f.kind for f in verify(source_of(str(path)), images=True).findings] == ["image"]


def test_depth_in_png_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "set"
    lerobot_write.write_store(path, tiny_store())
    declare(path, "observation.images.far", dtype="image", shape=[8, 8, 1], names=None)
    [file] = path.glob("data/*/*.parquet")
    table = pq.read_table(file)
    cells = [{"bytes": png16(np.full((8, 8), 600 + k, np.uint16)), "path": None} for k in range(len(table))]
    column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(table.append_column("observation.images.far", column), file)
    assert formats.read(path, images=True).images == ()
    with pytest.raises(UserError, match="16-bit pixels"):
        formats.read(path, images=("far",))


def test_grey_videos_keep_one_channel(tmp_path: Path) -> None:
    frames = pixels(17, 16, 16, 1)
    data = tiny_store()
    lerobot_write.write_store(tmp_path / "set", tiny_store(obs={**data.obs, "eye": frames}))
    np.testing.assert_array_equal(formats.read(tmp_path / "set", images=True).obs["eye"], frames)


def test_four_channels_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected images with 1 or 3 channels"):
        write_video(tmp_path / "a.mp4", pixels(3, 8, 8, 4), 10)
    with pytest.raises(UserError, match="not readable as an image"):
        decode_image(io.BytesIO(b"no image").getvalue(), "here")


def test_frames_that_belong_to_another_episode(tmp_path: Path) -> None:
    data = tiny_store()
    path = tmp_path / "set"
    lerobot_write.write_store(path, tiny_store(obs={**data.obs, "eye": pixels(17, 16, 16, 3)}))
    [file] = path.glob("meta/episodes/*/*.parquet")
    rows = pq.read_table(file).to_pylist()
    rows[2]["videos/observation.images.eye/from_timestamp"] = 1.0  # the second one has 0.5 to 1.4
    rows[2]["videos/observation.images.eye/to_timestamp"] = 1.3
    pq.write_table(pa.Table.from_pylist(rows), file)
    found = [f for f in verify(source_of(str(path))).findings if f.severity == "error"]
    assert [(f.kind, f.episodes) for f in found] == [("video", (2,))]
    with pytest.raises(
        UserError, match=r"episode 2: observation\.images\.eye: expected frames of its own, got 10 to 12"
    ):
        formats.read(path, images=True)
    assert formats.read(path).num_episodes == 3, "without images, their frames do not matter"
    rows[2]["videos/observation.images.eye/from_timestamp"] = 1.4
    rows[2]["videos/observation.images.eye/to_timestamp"] = 3.4
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(UserError, match="from_timestamp and to_timestamp span 20"):
        formats.read(path, images=True)


@pytest.mark.parametrize("format", ["store", "lerobot", "robomimic"])
def test_images_become_smaller(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_store()
    grey, plain = np.full((17, 40, 60, 1), 90, np.uint8), np.full((17, 40, 60, 3), 200, np.uint8)
    robomimic.write_store(tmp_path / "a.hdf5", tiny_store(obs={**data.obs, "eye": plain, "grey": grey}))
    out = tmp_path / ("b.hdf5" if format == "robomimic" else "b")
    flags = [f"--out={out}", f"--format={format}", "--image_height=10", "--image_width=15"]
    assert run_main(lambda: main(["convert", str(tmp_path / "a.hdf5"), *flags, "--images"])) == 0
    made = formats.read(out, images=True)
    assert {k: made.obs[k].shape[1:] for k in made.images} == {"eye": (10, 15, 3), "grey": (10, 15, 1)}
    assert np.abs(made.obs["eye"].astype(int) - 200).max() <= 1
    assert np.abs(made.obs["grey"].astype(int) - 90).max() <= 1
    capsys.readouterr()
    other = [f"--out={tmp_path / 'c'}", "--image_height=10"]
    assert run_main(lambda: main(["convert", str(tmp_path / "a.hdf5"), *other, "--images"])) == 2
    assert "expected both" in capsys.readouterr().err
    assert run_main(lambda: main(["convert", str(tmp_path / "a.hdf5"), *other, "--image_width=9"])) == 2
    assert "without images" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["store", "robomimic"])
def test_a_full_disk_is_noticed_before(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    eye = pixels(17, 300, 300, 3)
    robomimic.write_store(tmp_path / "a.hdf5", tiny_store(obs={**tiny_store().obs, "eye": eye}))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * 2**20))
    out = tmp_path / "b.hdf5"
    flags = [f"--out={out}", f"--format={format}", "--images"]
    assert run_main(lambda: main(["convert", str(tmp_path / "a.hdf5"), *flags])) == 2
    assert not out.exists()


@pytest.mark.parametrize("encoding", ["h264", "av1"])
def test_videos_that_lose_detail(tmp_path: Path, encoding: str) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 12, 3)).astype(np.float32)
    frames = np.clip(coarse.repeat(8, 1).repeat(8, 2), 0, 255).astype(np.uint8)  # 64 x 96, blocks of one colour
    steps = np.repeat(frames, 3, 0)[:17]
    data = tiny_store()
    lerobot_write.write_store(tmp_path / "a", tiny_store(obs={**data.obs, "front": steps}))
    words = ["convert", str(tmp_path / "a"), "--images", "--format", "lerobot", "--video", encoding]
    assert main([*words, "--out", str(tmp_path / "set")]) == 0
    read = formats.read(tmp_path / "set", images=True).obs["front"]
    assert read.shape == steps.shape
    inside = np.abs(read.astype(int) - steps)[:, 2::8, 2::8]
    assert np.abs(read.astype(int) - steps).max() > 0
    assert inside.mean() < 25  # colours are stored at half the resolution
    with av.open(str(next((tmp_path / "set").rglob("*.mp4")))) as container:
        assert (
            container.streams.video[0].codec_context.name in {"h264": ("h264",), "av1": ("libdav1d", "av1")}[encoding]
        )


@pytest.mark.parametrize("encoding", ["h264", "av1"])
def test_encoding_takes_no_real_time_priority(tmp_path: Path, encoding: str) -> None:
    """SVT-AV1 gives it to its caller, if that is root: what the caller starts later would starve the machine."""
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", frames, 20, encoding)
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before
    found = {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}
    assert not found & {os.SCHED_FIFO, os.SCHED_RR}


def test_only_videos_are_encoded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--video: expected --format lerobot, whose images are videos, got store"):
        main(["convert", "missing.hdf5", "--video", "av1", "--out", str(tmp_path / "set")])
