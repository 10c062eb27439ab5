"""Images per second in training, and what their pipeline costs: `python -m benchmarks.images`.

A policy of images is trained on made-up demonstrations (two cameras, 84 x 84), in turns (A, B, C, D, A, ...), each time
for some seconds:

- limit: every step sees the same images, which lie on the device, cropped differently;
- memory: windows are gathered from main memory, as for small data sets;
- mapped: from a memory-mapped file, as for data sets from 256 MiB on, by threads ahead of the trainer;
- mapped, no threads: the same, gathered by the trainer itself;
- video: from videos of a LeRobot set (--video h264 or av1, or --dataset), decoded while training by threads ahead of
  the trainer, with all of the images or --cache of them in main memory (`--videos decode`).

--dataset trains on the images of a LeRobot set instead of made-up ones.
--cold drops the file from the system's cache before each turn. Rates are medians over rounds; shares of the limit are
medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from raybc.config import RunConfig
from raybc.data import formats
from raybc.data import store as stores
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import lerobot_write
from raybc.data.formats.lerobot_decoded import open_decoding, video_names
from raybc.data.formats.options import ReadOptions
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.step import StepDraws
from raybc.types import Batch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CAMERAS, LENGTH, STATE, ACTIONS = ("front_image", "wrist_image"), 50, 9, 7


def store_of(frames: int, size: int, folder: Path | None) -> EpisodeStore:
    """Made-up demonstrations; images in memory, or mapped from files in `folder`."""
    rng = np.random.default_rng(0)
    obs: dict[str, np.ndarray] = {"state": rng.normal(size=(frames, STATE)).astype(np.float32)}
    for name in CAMERAS:
        shape = (frames, size, size, 3)
        if folder is None:
            obs[name] = rng.integers(0, 256, shape, np.uint8)
            continue
        made = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
        for first in range(0, frames, 1000):
            made[first : first + 1000] = rng.integers(0, 256, made[first : first + 1000].shape, np.uint8)
        made.flush()
        obs[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    ends = np.arange(LENGTH, frames + 1, LENGTH)
    actions = rng.uniform(-1, 1, (frames, ACTIONS)).astype(np.float32)
    return EpisodeStore(obs, actions, np.zeros(frames, np.float32), ends, source=Path("made"), checked=True)


def in_videos(store: EpisodeStore, path: Path, encoding: str) -> Path:
    """A LeRobot set of the store's numbers, with smooth images that move: noise cannot be compressed."""
    rng, obs = np.random.default_rng(0), dict(store.obs)
    for name in store.images:
        n, height, width, _ = store.obs[name].shape
        still = rng.integers(0, 256, (-(-height // 12), -(-width // 12), 3), np.uint8).repeat(12, 0).repeat(12, 1)
        still = still[:height, :width]
        obs[name] = np.stack([np.roll(still, (i, 2 * i), (0, 1)) for i in range(n)])
    lerobot_write.write_store(path, dataclasses.replace(store, obs=obs), encoding=encoding)
    return path


def decoding(path: Path, cache_share: float) -> EpisodeStore:
    """The set at `path`, decoded while training, with a share of its images in main memory."""
    wanted = ReadOptions(images=True)
    size = sum(open_decoding(path, wanted).obs[name].nbytes for name in video_names(path, wanted).values())
    return open_decoding(path, wanted, max(1, int(cache_share * size)))


def trainer_of(args: argparse.Namespace, store: EpisodeStore) -> PackTrainer:
    config = RunConfig.of(
        env_name="lift-scripted-image", policy="flow", hidden_width=256, hidden_depth=2, action_chunking=True,
        horizon_length=16, normalization="identity", encoder=args.encoder, image_crop=args.crop,
        batch_size=args.batch, training_steps=10**6, compile=args.compile,
    )  # fmt: skip
    low_dim = sorted(set(store.obs) - set(store.images))
    data = TrainingData(store, "0" * 64, (*low_dim, *sorted(store.images)), {})
    return PackTrainer(with_seeds(config, [0]), data, torch.device(args.device))


def forget(folder: Path) -> None:
    """Drop the files from the system's cache."""
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--crop", default="76,76")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=8000, help="of each camera in the mapped files")
    parser.add_argument("--size", type=int, default=84, help="height and width in pixels")
    parser.add_argument("--video", choices=("h264", "av1"), help="also from videos")
    parser.add_argument("--dataset", type=Path, help="LeRobot set with videos, in place of made-up images")
    parser.add_argument("--cache", type=float, default=0.1, help="share of the images in the smaller cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for a machine with other work"
    )
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if args.dataset is not None:
            small = formats.read(args.dataset, images=True)
            mapped = stores.convert(args.dataset, folder / "store", images=True)
        else:
            small, mapped = store_of(2000, args.size, None), store_of(args.frames, args.size, folder)
        cameras = len(small.images)
        ways = {name: trainer_of(args, small) for name in ("limit", "memory")}
        ways |= {name: trainer_of(args, mapped) for name in ("mapped", "mapped, no threads")}
        ways["mapped, no threads"]._feed = None
        videos = args.dataset or (in_videos(small, folder / "set", args.video) if args.video else None)
        for share in (1, args.cache):
            if videos is None:
                break
            ways[f"video, {share:.0%} in memory"] = trainer_of(args, decoding(videos, share))
        limit = ways["limit"]
        once = limit.windows.gather(limit.draws.at(0).indices_MB)
        limit._batch_of = lambda drawn: augmented(limit, once, drawn)  # type: ignore[method-assign]
        if ways["mapped"]._feed is None and args.dataset is None:
            parser.error(f"--frames: expected at least 256 MiB of images, got {args.frames} frames of each camera")
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for trainer in ways.values():
            trainer.advance(3)
        for _ in range(args.rounds):
            for name, trainer in ways.items():
                if args.cold:
                    forget(folder)
                rates[name].append(steps_per_second(trainer, args.seconds, CLOCKS[args.clock]) * args.batch * cameras)
    shown = args.dataset or f"{args.size} x {args.size}"
    print(f"{args.encoder}, batch {args.batch}, {shown}, crop {args.crop or 'none'}, {args.device}, ")
    print(f"{args.threads} threads, {args.rounds} rounds{', cold' if args.cold else ''}\n")
    print("| way | images/s | share of the limit |\n|---|---|---|")
    for name, found in rates.items():
        share = statistics.median(a / b for a, b in zip(found, rates["limit"], strict=True))
        print(f"| {name} | {statistics.median(found):.0f} | {share:.1%} |")


def augmented(trainer: PackTrainer, batch: Batch, drawn: StepDraws) -> Batch:
    return batch if trainer._augment is None else trainer._augment(batch, drawn.draws)


def steps_per_second(trainer: PackTrainer, seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    wait = torch.cuda.synchronize if trainer.device.type == "cuda" else lambda: None
    wait()
    started, first = clock(), trainer.step
    while clock() - started < seconds:
        trainer.advance(trainer.step + 1)
    wait()
    return (trainer.step - first) / (clock() - started)


if __name__ == "__main__":
    main()
