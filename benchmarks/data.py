"""Windows sampled per second, and memory of sets that are larger than it: `python -m benchmarks.data`.

    low-dim   ours       `Windows.gather`: a batch of windows by indexing arrays
              plain      the Dataset and DataLoader that people write, one window an item
              robomimic  its SequenceDataset, everything cached, in a DataLoader (with --oracles FOLDER)
    images  ours       `Windows.gather` of the memory-mapped store: a frame for each window
              video      the same frames decoded one by one from H.264 with a key frame every second frame, as LeRobot
                         writes and reads it
    memory    ours       statistics and random frames of a mapped set by a process that may not allocate as much as that
              training   what a training allocates for a mapped set of eight files: all at once, and file after file

Batches of 256 low-dim windows (23 observations, chunks of 5 x 7) and of 32 images (96 x 96). Ways take turns in every
round (A, B, A, B ...); the figures are medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from benchmarks.train_throughput import BATCH, CHUNK, Chunks, demonstrations, rate
from raybc.data import formats, store
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base
from raybc.data.windows import Windows

PICTURES, SIDE, FPS = 32, 96, 10
Way = Callable[[int], None]


def ours_low_dim(data: EpisodeStore) -> Way:
    windows = Windows.build(
        data.obs["state"].copy(),
        data.actions_NA.copy(),
        data.episode_ends,
        np.arange(data.num_episodes),
        CHUNK,
        torch.device("cpu"),
    )
    generator = torch.Generator().manual_seed(0)

    def run(batches: int) -> None:
        for _ in range(batches):
            windows.gather(torch.randint(len(windows.starts), (1, BATCH), generator=generator))

    return run


def loader(dataset: Any) -> Way:
    batches: Iterator[Any] = itertools.chain.from_iterable(
        itertools.repeat(torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, drop_last=True))
    )

    def run(count: int) -> None:
        for _ in range(count):
            next(batches)

    return run


def robomimic_low_dim(data: EpisodeStore, oracles: Path, folder: Path) -> Way:
    sys.path.insert(0, str(oracles))
    from robomimic.utils import dataset, obs_utils

    formats.get("robomimic").write_store(folder / "a.hdf5", data)
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"]}})
    return loader(
        dataset.SequenceDataset(
            str(folder / "a.hdf5"), obs_keys=("state",), dataset_keys=("actions",), seq_length=CHUNK,
            hdf5_cache_mode="all", hdf5_use_swmr=False, load_next_obs=False,
        )
    )  # fmt: skip


def filmed(frames: int) -> np.ndarray:
    """uint8 (frames, SIDE, SIDE, 3): a square that moves over a gradient, which a codec finds easy."""
    y, x = np.mgrid[:SIDE, :SIDE]
    images = np.empty((frames, SIDE, SIDE, 3), np.uint8)
    for k, image in enumerate(images):
        at = (k * 3) % (SIDE - 20)
        image[...] = np.stack([y + k, x, x + y], axis=2)
        image[at : at + 20, 30:50] = 255
    return images


def write_video(path: Path, images: np.ndarray) -> None:
    """As LeRobot: yuv420p, a key frame every second frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "2", "crf": "30"})
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def video_images(path: Path, frames: int) -> Way:
    container = av.open(str(path))
    stream = container.streams.video[0]
    rng = np.random.default_rng(0)

    def frame(k: int) -> np.ndarray:
        wanted = round(k / FPS / stream.time_base)
        container.seek(wanted, stream=stream)
        return next(f for f in container.decode(stream) if f.pts >= wanted).to_ndarray(format="rgb24")

    def run(batches: int) -> None:
        for _ in range(batches):
            np.stack([frame(int(k)) for k in rng.integers(0, frames, PICTURES)])

    return run


def mapped_images(data: EpisodeStore) -> Way:
    """What training on images gathers: their windows."""
    windows = Windows.build(
        np.zeros((len(data.actions_NA), 0), np.float32),
        data.actions_NA.copy(),
        data.episode_ends,
        np.arange(data.num_episodes),
        CHUNK,
        torch.device("cpu"),
        images={"pixels": data.obs["pixels"]},
    )
    generator = torch.Generator().manual_seed(0)

    def run(batches: int) -> None:
        for _ in range(batches):
            windows.gather(torch.randint(len(windows.starts), (1, PICTURES), generator=generator))

    return run


def with_images(folder: Path, frames: int) -> EpisodeStore:
    length = 100
    data = EpisodeStore(
        {"pixels": filmed(frames)}, np.zeros((frames, 2), np.float32), np.zeros(frames, np.float32),
        np.arange(length, frames + 1, length), source=Path("filmed"),
    )  # fmt: skip
    store.write_store(folder / "images", data)
    write_video(folder / "a.mp4", data.obs["pixels"])
    return formats.read(folder / "images", images=True)


def take_turns(ways: Mapping[str, tuple[Way, int]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples per second of each way (with the samples of a batch), in every round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way, _ in ways.values():
        way(2)
    for _ in range(rounds):
        for name, (way, size) in ways.items():
            found[name].append(rate(way, size, seconds, "cpu"))
    return found


def show(title: str, found: Mapping[str, list[float]]) -> None:
    print(f"\n### {title}\n\n| | samples/s (each round) | ours is faster by |\n|---|---|---|")
    ours = statistics.median(found["ours"])
    for name, values in found.items():
        print(f"| {name} | {', '.join(f'{v:.0f}' for v in values)} | {ours / statistics.median(values):.1f} |")


MEMORY = """
import resource
import sys
import numpy as np
from raybc.data import formats
from raybc.data.scan import source_of
from raybc.data.stats import statistics
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # what a process may allocate; mapped files do not count
data = formats.read(sys.argv[1])
statistics(source_of(sys.argv[1]))
rng = np.random.default_rng(0)
for _ in range(200):
    data.actions_NA[rng.integers(0, len(data.actions_NA), 256)]
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
try:
    bytearray(sum(a.nbytes for a in data.arrays().values()))
    print("the bound does not hold")
except MemoryError:
    print("a copy does not fit")
"""


TRAINING = """
import sys
import torch
from raybc.config import RunConfig
from raybc.data import formats
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer
def anonymous():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon"))) >> 10
config = RunConfig.of(env_name="pointmass-scripted-low_dim", hidden_width=16, hidden_depth=1, batch_size=32,
                   dataset_replace_interval=int(sys.argv[2]), device="cpu")
def train(store):
    trainer = PackTrainer([config], TrainingData(store, "0", ("state",), {}), torch.device("cpu"))
    most = 0
    for step in range(1, 41):
        trainer.advance(step)
        most = max(most, anonymous())
    return most
train(formats.read(sys.argv[3]))  # what PyTorch itself takes
before = anonymous()
print(train(formats.read(sys.argv[1])) - before)
"""
FILES = 8


def training_memory(folder: Path, megabytes: int) -> dict[str, int]:
    """Megabytes of its own that a training holds, of a mapped set of so many MB in `FILES` files: all at once, and one
    file after the other."""
    rng, length = np.random.default_rng(0), 1000
    for name, size in (("turns", megabytes), ("tiny", 8)):
        rows = size * 2**20 // 4 // 32 // FILES // length * FILES * length or FILES * length
        ends = np.arange(length, rows + 1, length)
        files = tuple(len(ends) * (i + 1) // FILES for i in range(FILES))
        data = EpisodeStore(
            {"state": rng.random((rows, 24), np.float32)}, rng.random((rows, 7), np.float32),
            np.zeros(rows, np.float32), ends, files=files, source=folder / name, checked=True,
        )  # fmt: skip
        store.write_store(folder / name, data)
    found = {"set_mb": megabytes}
    for name, interval in (("all_mb", 0), ("file_after_file_mb", 5)):
        command = [sys.executable, "-c", TRAINING, str(folder / "turns"), str(interval), str(folder / "tiny")]
        found[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def memory(folder: Path, megabytes: int) -> dict[str, Any]:
    """Read a mapped set of so many MB in a process that may allocate 3/4 of it, PyTorch's own memory not counted."""
    rows = megabytes * 2**20 // 4 // 32
    length = base.ROWS_PER_READ // 8
    rows -= rows % length
    path = folder / "large"
    actions = np.random.default_rng(0).random((rows, 31), np.float32)
    data = EpisodeStore(
        {}, actions, np.zeros(rows, np.float32), np.arange(length, rows + 1, length), source=path, checked=True
    )
    store.write_store(path, data)
    limit = megabytes * 2**20 * 3 // 4
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(limit)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {"set_mb": megabytes, "allowed_mb": limit >> 20, "anonymous_mb": int(out[0]) >> 10, "copy": out[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--megabytes", type=int, default=2048, help="of the set that is larger than the memory allowed")
    parser.add_argument("--oracles", type=Path, help="folder with robomimic, from pip install --no-deps --target")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = demonstrations()
        ways = {"ours": (ours_low_dim(data), BATCH), "plain": (loader(Chunks(data)), BATCH)}
        if args.oracles:
            ways["robomimic"] = (robomimic_low_dim(data, args.oracles, folder), BATCH)
        results["low-dim"] = take_turns(ways, args.rounds, args.seconds)
        show("low-dim windows", results["low-dim"])
        images = with_images(folder, args.frames - args.frames % 100)
        ways = {
            "ours": (mapped_images(images), PICTURES),
            "video": (video_images(folder / "a.mp4", len(images.actions_NA)), PICTURES),
        }
        results["images"] = take_turns(ways, args.rounds, args.seconds)
        show("images", results["images"])
        results["memory"] = memory(folder, args.megabytes)
        results["training"] = training_memory(folder, args.megabytes)
    print(f"\n### memory\n\n{results['memory']}\n{results['training']}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
