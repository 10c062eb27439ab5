"""Images that are decoded from their videos while training: the same as those that are decoded once."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from raybc.cli import run_main
from raybc.config import RunConfig
from raybc.data import formats
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import lerobot_write
from raybc.data.frames import ChunkCache, VideoFrames, _Open
from raybc.data.idle import without_idle
from raybc.data.lazy import LazyImages
from raybc.data.load import read_for
from raybc.data.videos import Video, write_video
from raybc.train.__main__ import main
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.types import UserError

FRAMES, SIZE = 90, 24
BYTES = SIZE * SIZE * 3


def moving(count: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, 24, 24, 3): smooth images that move."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)
    return np.stack([np.roll(base, (i, 2 * i), (0, 1)) for i in range(count)])


def encoded(path: Path, frames: np.ndarray, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"crf": "20", **options})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def lerobot_set(path: Path, encoding: str = "h264", version: str = "v3.0") -> Path:
    rng, n = np.random.default_rng(0), 60
    obs = {"state": rng.normal(size=(n, 3)).astype(np.float32), "front": moving(n), "wrist": moving(n, 1)}
    actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    actions[12:18] = 0  # idle
    store = EpisodeStore(obs, actions, np.zeros(n, np.float32), np.arange(10, n + 1, 10))
    lerobot_write.write_store(path, store, version=version, encoding=encoding)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_set(tmp_path_factory.mktemp("videos") / "set")


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "lossless"},
        {"encoding": "h264"},
        {"encoding": "av1"},
        {"g": "250", "bf": "3"},  # one key frame
        {"g": "12", "bf": "3", "x264-params": "open-gop=1"},  # frames before a key frame are decoded after it
    ],
    ids=str,
)
def test_any_frames_are_those_of_the_whole_video(options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    if "encoding" in options:
        write_video(path, moving(FRAMES), 10, options["encoding"])
    else:
        encoded(path, moving(FRAMES), **options)
    expected = Video(path, 10).read(0, FRAMES)
    cache = ChunkCache(20 * BYTES)
    some = VideoFrames.of([(path, 0, 40), (path, 50, 30)], 10, False, cache, "camera")
    row_of = np.r_[0:40, 50:80]
    assert some.shape == (70, SIZE, SIZE, 3)
    rng = np.random.default_rng(1)
    for _ in range(25):
        rows = rng.integers(0, 70, (3, 2))
        np.testing.assert_array_equal(some[rows], expected[row_of[rows]])
        assert cache.nbytes <= 20 * BYTES
    np.testing.assert_array_equal(np.concatenate(list(some.blocks())), expected[row_of])
    np.testing.assert_array_equal(some[5], expected[5])
    np.testing.assert_array_equal(some[-3:], expected[77:80])
    np.testing.assert_array_equal(some.part(np.array([60, 3]))[:], expected[[70, 3]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(some))[45:47], expected[55:57])


def test_a_chunk_is_decoded_once_while_it_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, moving(FRAMES), 10, "h264")
    cache = ChunkCache(FRAMES * BYTES)
    frames = VideoFrames.of([(path, 0, FRAMES)], 10, False, cache, "camera")
    decoded = []
    read = _Open.read
    monkeypatch.setattr(_Open, "read", lambda *args: decoded.append(args[1]) or read(*args))
    frames[:]
    assert decoded == list(range(0, FRAMES, 2))  # a key frame every second frame
    frames[::7]
    assert len(decoded) == FRAMES // 2
    assert cache.nbytes == FRAMES * BYTES


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_set_is_the_same_however_it_is_decoded(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    path = lerobot_set(tmp_path / "set", version=version)
    whole = read_for(path, "", images=True)
    lazy = read_for(path, "", images=True, decode=True)
    assert isinstance(lazy.obs["front"], LazyImages)
    assert list(lazy.images) == list(whole.images) == ["front", "wrist"]
    assert lazy.fingerprint() == whole.fingerprint()
    for name in whole.images:
        np.testing.assert_array_equal(lazy.obs[name][:], whole.obs[name])
    fewer, kept = without_idle(whole), without_idle(lazy)
    assert isinstance(kept.obs["wrist"], LazyImages)
    assert kept.fingerprint() == fewer.fingerprint() != whole.fingerprint()

    only = read_for(path, "", images=True, decode=True, keys=formats.base.Keys.of("", "wrist,state"))
    assert sorted(only.obs) == ["state", "wrist"]


def test_the_fingerprint_is_remembered_until_a_video_changes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    path = shutil.copytree(videos, tmp_path / "set")
    first = read_for(path, "", images=True, decode=True).fingerprint()
    (remembered,) = (tmp_path / "home" / "fingerprints").glob("*.json")
    assert first in remembered.read_text()

    def fails(*_: object) -> None:
        raise AssertionError("decoded once more")

    with monkeypatch.context() as patched:
        patched.setattr(LazyImages, "blocks", fails)
        assert read_for(path, "", images=True, decode=True).fingerprint() == first
    remembered.write_text("damaged")
    assert read_for(path, "", images=True, decode=True).fingerprint() == first
    (video,) = path.glob("videos/observation.images.front/*/*.mp4")
    write_video(tmp_path / "other.mp4", moving(60, 7), 10, "h264")
    (tmp_path / "other.mp4").replace(video)
    changed = read_for(path, "", images=True, decode=True).fingerprint()
    assert changed != first
    assert changed == read_for(path, "", images=True).fingerprint()


def test_the_first_fingerprint_shows_its_progress(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    shown: list[object] = []

    @contextlib.contextmanager
    def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        shown.extend((what, total))
        yield shown.append

    lazy = read_for(videos, "", images=True, decode=True)
    images = sum(len(lazy.obs[name]) for name in lazy.images)
    first = lazy.fingerprint(bar=bar)
    assert shown[:2] == ["fingerprint of the data", images]
    assert shown[-1] == images
    shown.clear()
    assert lazy.fingerprint(bar=bar) == first
    assert shown == []  # remembered


def trainer(path: Path, decode: bool, **options: Any) -> PackTrainer:
    config = RunConfig.of(
        policy="regression", encoder="impala_small", hidden_width=8, hidden_depth=1, batch_size=4, training_steps=30,
        action_chunking=True, horizon_length=3, normalization="identity", obs_steps=2, image_crop="16,16",
        holdout_seed=0, **options,
    )  # fmt: skip
    store = read_for(path, "", images=True, decode=decode, memory=config.memory_bytes)
    data = TrainingData(store, store.fingerprint(), ("state", "front", "wrist"), {})
    return PackTrainer(with_seeds(config, [0, 1]), data, torch.device("cpu"))


def test_the_same_training_to_the_bit(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    plain, decoding = trainer(videos, False), trainer(videos, True)
    assert plain._feed is None
    assert decoding._feed is not None
    for until in (7, 20):
        plain.advance(until)
        decoding.advance(until)
    assert plain.validate() == decoding.validate()
    before, after = plain.state().tensors, decoding.state().tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_more_memory_than_agreed(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    step = 2 * 4 * 2 * 2 * BYTES  # members, batch, observation steps, cameras
    limited = trainer(videos, True, memory_limit=6 * step / 2**30)
    limited.advance(10)
    assert limited._feed is not None
    assert limited._feed._ahead == 3
    images = limited.windows.images["front"]
    assert isinstance(images, VideoFrames)
    assert images.cache.most_bytes == 3 * step
    assert 0 < images.cache.nbytes <= 3 * step


SMALL = (
    "--policy=regression", "--encoder=impala_small", "--hidden_width=8", "--hidden_depth=1", "--batch_size=4",
    "--training_steps=6", "--eval_interval=0", "--normalization=identity", "--device=cpu",
)  # fmt: skip


def test_a_run_begins_with_one_and_resumes_with_the_other(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    flags = [f"--dataset={videos}", *SMALL]

    def train(out: str, *more: str) -> int:
        return run_main(lambda: main([*flags, f"--out={tmp_path / out}", *more]))

    assert train("whole", "--training_steps=12") == 0
    assert train("first", "--videos=decode") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "120 images in videos are decoded while training: about" in said
    assert "--videos convert decodes them once, into 0.00019 GiB of main memory, in about" in said
    assert train("first", "--training_steps=12", "--resume=auto") == 0
    whole, resumed = (tmp_path / run / "checkpoint_12" / "policy.safetensors" for run in ("whole", "first"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_a_large_set_is_converted_and_the_reason_is_said(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    said: list[str] = []
    small = read_for(videos, "", images=True, say=said.append)
    assert not said  # it fits into memory
    large = read_for(videos, "", images=True, memory=BYTES, say=said.append)
    assert len(said) == 1
    assert f"120 images in videos are decoded once, into a file of 0.00019 GiB in {tmp_path / 'home'}" in said[0]
    assert "--videos decode needs no such file, and decodes while training: about" in said[0]
    assert large.fingerprint() == small.fingerprint()
    read_for(videos, "", images=True, memory=BYTES, say=said.append)
    assert len(said) == 1  # it is there


@pytest.mark.parametrize("format", ["lerobot", "robomimic"])
def test_a_full_disk_of_the_cache_is_answered_with_what_helps(
    format: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    path = videos
    if format == "robomimic":
        path = tmp_path / "demos.hdf5"
        formats.get(format).write_store(path, read_for(videos, "", images=True))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=-(2**20)))  # the set needs less than 1 MB
    with pytest.raises(UserError, match="free some, or set RAYBC_HOME to a folder of another disk") as error:
        read_for(path, "", images=True, memory=BYTES)
    assert ("--videos decode" in str(error.value)) == (format == "lerobot")
    assert "--out" not in str(error.value)


def test_what_cannot_be_decoded_while_training(videos: Path, tmp_path: Path) -> None:
    store = read_for(videos, "", images=True)
    other = tmp_path / "store"
    formats.get("store").write_store(other, store)
    for path, options, message in (
        (other, {"images": True}, "expected a LeRobot set with videos, got the format store; leave --videos out"),
        (videos, {"images": False}, "expected a policy with images, got one without; choose an --encoder or leave"),
        (videos, {"images": True, "skip_bad_episodes": True}, "expected it without --skip_bad_episodes"),
    ):
        with pytest.raises(UserError, match=f"--videos decode: {message}"):
            read_for(path, "", decode=True, **options)  # type: ignore[arg-type]
    low_dim = EpisodeStore({"state": store.obs["state"]}, store.actions_NA, store.rewards_N, store.episode_ends)
    lerobot_write.write_store(tmp_path / "low_dim", low_dim)
    with pytest.raises(UserError, match="--videos decode: expected images in videos, found none; leave --videos out"):
        read_for(tmp_path / "low_dim", "", images=True, decode=True)


def test_damaged_videos(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    path = shutil.copytree(videos, tmp_path / "set")
    (video,) = path.glob("videos/observation.images.front/*/*.mp4")
    good = video.read_bytes()
    write_video(tmp_path / "short.mp4", moving(40), 10, "h264")
    video.write_bytes((tmp_path / "short.mp4").read_bytes())
    with pytest.raises(UserError, match=r"\.mp4: observation\.images\.front: expected at least 50 frames, got 40"):
        read_for(path, "", images=True, decode=True)
    video.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match=r"\.mp4: .*damaged or truncated"):
        read_for(path, "", images=True, decode=True)
    video.unlink()
    with pytest.raises(UserError, match=r"\.mp4: expected the video of the requested images"):
        read_for(path, "", images=True, decode=True)
    write_video(tmp_path / "slow.mp4", moving(60), 5, "h264")
    video.write_bytes((tmp_path / "slow.mp4").read_bytes())
    with pytest.raises(UserError, match=r"\.mp4: frame 1: expected at 0\.100 s, got 0\.200 s"):
        read_for(path, "", images=True, decode=True)


def test_a_video_that_changes_before_another_process_reads_it(videos: Path, tmp_path: Path) -> None:
    path = shutil.copytree(videos, tmp_path / "set")
    front = read_for(path, "", images=True, decode=True).obs["front"]
    (video,) = path.glob("videos/observation.images.front/*/*.mp4")
    write_video(video, moving(30), 10, "h264")
    with pytest.raises(UserError, match=r"\.mp4: expected at least \d+ frames, got 30: it has changed"):
        pickle.loads(pickle.dumps(front))[:]
