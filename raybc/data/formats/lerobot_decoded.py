"""LeRobot sets whose videos are decoded when their images are asked for."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, lerobot, lerobot_names
from raybc.data.formats.base import Keys, ReadOptions
from raybc.data.formats.lerobot_frames import frame_faults, uses_of
from raybc.data.formats.lerobot_meta import EpisodeMeta, Meta
from raybc.data.formats.odd import ADVICE
from raybc.data.frames import CONVERT, ChunkCache, VideoFrames
from raybc.types import UserError

#: Episodes and images whose decoding is timed.
MEASURED_EPISODES, MEASURED_IMAGES = 8, 32
#: Bytes of decoded chunks in main memory, of all cameras together, unless another number is given.
CACHE_BYTES = 2**29


def open_decoding(path: Path, wanted: ReadOptions, cache_bytes: int = 0) -> EpisodeStore:
    """The data set at `path`, in memory but for the images of videos, which are decoded when they are indexed.

    The videos' packets are read and not decoded, so a damaged image is found when it is used. cache_bytes: of decoded
    images in main memory (0: `CACHE_BYTES`).

    Raises `UserError` as reading does, and where no wanted image is a video.
    """
    found, names = Meta(path), video_names(path, wanted)
    chosen = wanted.keys.observations
    others = tuple(name for name in chosen if name not in names.values())
    stored = tuple(
        name
        for feature, name in lerobot_names.observations_of(found.features).items()
        if found.features[feature]["dtype"] == "image" and wanted.image(name)
    )
    rest = dataclasses.replace(wanted, images=stored or False, needed=None, keys=Keys(wanted.keys.action, others))
    store = base.collect(lerobot, path, rest)
    low_dim = {name: store.obs[name] for name in others} if chosen else store.obs
    episodes, cache = found.episodes(), ChunkCache(cache_bytes or CACHE_BYTES)
    for (feature, number), text in frame_faults(uses_of({e.number: (e.length, e.videos) for e in episodes})).items():
        if feature in names:
            raise UserError(f"{path}: episode {number}: {feature}: {text}; {CONVERT}, and {ADVICE}")
    images = {name: cast("np.ndarray", frames_of(found, feature, episodes, cache)) for feature, name in names.items()}
    return dataclasses.replace(store, obs={**low_dim, **images}, checked=True)


def video_names(path: Path, wanted: ReadOptions) -> dict[str, str]:
    """Feature -> name of the observation, of the videos to read. Raises `UserError` where there are none."""
    found = Meta(path)
    names = lerobot.names_of(found, found.episodes(), wanted)
    chosen = wanted.keys.observations or tuple(names.values())
    videos = {f: n for f, n in names.items() if found.features[f]["dtype"] == "video" and n in chosen}
    if not videos:
        raise UserError(f"{path}: --videos decode: expected images in videos, found none; leave --videos out")
    return videos


def frames_of(found: Meta, feature: str, episodes: list[EpisodeMeta], cache: ChunkCache | None = None) -> VideoFrames:
    """The frames of a camera in some episodes, one after another; only their files are opened. cache: None for one of
    `CACHE_BYTES`. Raises `UserError` as `VideoFrames.of` does."""
    cache = cache or ChunkCache(CACHE_BYTES)
    places = [(e.videos[feature].path, e.videos[feature].first, e.length) for e in episodes]
    return VideoFrames.of(places, found.fps, lerobot_names.is_grey(found.features[feature]), cache, feature)


@dataclass(frozen=True)
class VideoCost:
    """What decoding a camera's images costs on one core of this machine."""

    images: int
    """Images of all cameras."""
    nbytes: int
    """Bytes of them, decoded."""
    in_order: float
    """Seconds per image when all are decoded in order."""
    at_random: float
    """Seconds per image of a window that begins anywhere, without a cache."""

    @classmethod
    def measured(cls, path: Path, wanted: ReadOptions) -> VideoCost:
        """Decode some images of each camera. Raises `UserError` as `open_decoding` does."""
        found, names = Meta(path), video_names(path, wanted)
        episodes = found.episodes()
        some = episodes[:: max(1, len(episodes) // MEASURED_EPISODES)][:MEASURED_EPISODES]
        images = nbytes = 0
        times = []
        for feature in names:
            frames = frames_of(found, feature, some)
            count = sum(e.length for e in episodes)
            images, nbytes = images + count, nbytes + count * frames[:1].nbytes
            ordered = np.arange(min(len(frames), MEASURED_IMAGES))
            anywhere = np.random.default_rng(0).integers(0, len(frames), MEASURED_IMAGES)
            out = np.empty((MEASURED_IMAGES, *frames.shape[1:]), np.uint8)
            began = time.thread_time()
            frames.read(ordered, out[: len(ordered)], keep=False)
            between = time.thread_time()
            for row in anywhere:
                frames.read(row[None], out[:1])
            times.append(((between - began) / len(ordered), (time.thread_time() - between) / len(anywhere)))
        return cls(images, nbytes, *np.mean(times, axis=0).tolist())

    def describe(self, decode: bool, folder: Path | None, cache_bytes: int) -> str:
        """Why videos are decoded while training (`decode`) or once before it, one line for people.

        folder: of converted data; None: they would be decoded into main memory. cache_bytes: as for `open_decoding`.
        """
        seconds, size = self.in_order * self.images, f"{self.nbytes / 2**30:.2g} GiB"
        place = f"{size} of main memory" if folder is None else f"a file of {size} in {folder}"
        once = f"{place}, in about {seconds:.3g} s of a core"
        while_training = f"about {1e3 * self.at_random:.2g} ms of a core per image"
        head = f"{self.images} images in videos"
        if decode:
            cache = (cache_bytes or CACHE_BYTES) / 2**30
            return (
                f"{head} are decoded while training: {while_training} that is not among the {cache:.2g} GiB in main "
                f"memory. The first start also decodes all, for the data's fingerprint, in about {seconds:.3g} s "
                f"of a core. --videos convert decodes them once, into {once}"
            )
        return (
            f"{head} are decoded once, into {once}. --videos decode needs no such file, and decodes while training: "
            f"{while_training}"
        )
