"""Images per second of one core that loads them, and nothing else: `python -m benchmarks.image_loaders SET`.

    python -m benchmarks.image_loaders set --lerobot SITE      # beside LeRobot's own loader

SET is a LeRobot set with videos. In turns (A, B, C, A, ...), each time for some seconds of processor time, batches of
windows that begin anywhere are gathered

- from memory: the images decoded before;
- mapped: from a converted set in the system's cache;
- video: decoded when they are needed, without a cache, or with a cache of --cache of the images;
- LeRobot: `LeRobotDataset[i]` for each window, as a worker of a `DataLoader` does (images as float32). SITE is the
  folder with its package and needs (docs/data.md); it decodes with torchcodec where that can be loaded, otherwise PyAV.

A worker of a pipeline does this beside the trainer, so images/s of training / images/s here are the cores that loading
takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.images import decoding
from raybc.data import formats
from raybc.data import store as stores
from raybc.data.episodes import EpisodeStore
from raybc.data.windows import selected, to_device_if_it_fits

#: Runs in a process of its own, because LeRobot needs other versions of packages. Prints a line for each turn.
LEROBOT = """
import json, sys, time
import torch
made = torch.library.Library("torchvision", "DEF")  # torchvision beside a CPU torch lacks these
for name in ("nms", "qnms"):
    made.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.set_num_threads(1)
from lerobot.datasets import lerobot_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset
root, batch, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
backend = "torchcodec"
try:
    from torchcodec.decoders import VideoDecoder
except Exception:
    import av
    backend = "pyav"
    def frames_at(path, times, *_):  # what LeRobot's reader for PyAV does; torchvision no longer has its own
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            video.seek(int(min(times) / stream.time_base), stream=stream)
            found = {}
            for frame in video.decode(stream):
                found[round(frame.time, 4)] = frame.to_ndarray(format="rgb24")
                if frame.time >= max(times) - 1e-4:
                    break
        return torch.stack([torch.from_numpy(found[round(t, 4)]).permute(2, 0, 1) / 255 for t in times])
    lerobot_dataset.decode_video_frames = frames_at
data = LeRobotDataset("a/b", root=root)
cameras = len(data.meta.camera_keys)
data[0]
print(json.dumps(backend), flush=True)
draw = torch.Generator().manual_seed(0)
for line in sys.stdin:
    began, images = time.process_time(), 0
    while time.process_time() - began < seconds:
        rows = torch.randint(len(data), (batch,), generator=draw).tolist()
        torch.utils.data.default_collate([data[row] for row in rows])
        images += batch * cameras
    print(json.dumps(images / (time.process_time() - began)), flush=True)
"""


def ours(store: EpisodeStore, batch: int, seconds: float) -> Callable[[], float]:
    """A turn of gathering from `store`: images per second of processor time."""
    images = to_device_if_it_fits({name: store.obs[name] for name in store.images}, torch.device("cpu"))
    draw = np.random.default_rng(0)

    def turn() -> float:
        began, count = time.process_time(), 0
        while time.process_time() - began < seconds:
            rows = torch.from_numpy(draw.integers(0, len(store.actions_NA), batch))
            count += sum(len(selected(image, rows)) for image in images.values())
        return count / (time.process_time() - began)

    return turn


def theirs(process: subprocess.Popen[str]) -> Callable[[], float]:
    def turn() -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return float(json.loads(process.stdout.readline()))

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cache", type=float, default=0.1, help="share of the images in the cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--lerobot", default="", help="folders with LeRobot's package and needs, separated by colons")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        ways = {
            "from memory": formats.read(args.dataset, images=True),
            "mapped": stores.convert(args.dataset, Path(place) / "store", images=True),
            "video, no cache": decoding(args.dataset, 0),
            f"video, {args.cache:.0%} in memory": decoding(args.dataset, args.cache),
        }
        turns = {name: ours(store, args.batch, args.seconds) for name, store in ways.items()}
        process = None
        if args.lerobot:
            process = subprocess.Popen(
                [sys.executable, "-c", LEROBOT, str(args.dataset), str(args.batch), str(args.seconds)],
                env={**os.environ, "PYTHONPATH": args.lerobot, "HF_HUB_OFFLINE": "1", "HF_HOME": place},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            backend = process.stdout.readline()
            if not backend:
                parser.error(f"--lerobot: expected its package in {args.lerobot}; it could not be started, see above")
            turns[f"LeRobot, {json.loads(backend)}"] = theirs(process)
        rates: dict[str, list[float]] = {name: [turn()][:0] for name, turn in turns.items()}  # a first turn to warm up
        for _ in range(args.rounds):
            for name, turn in turns.items():
                rates[name].append(turn())
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait()
    shapes = {name: " x ".join(map(str, array.shape[1:])) for name, array in ways["mapped"].obs.items()}
    print(f"{args.dataset.name}: {', '.join(shapes[name] for name in ways['mapped'].images)}, batch {args.batch}\n")
    print("| loader | images/s of one core | ms of a core per image |\n|---|---|---|")
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"| {name} | {rate:.0f} | {1e3 / rate:.3f} |")


if __name__ == "__main__":
    main()
