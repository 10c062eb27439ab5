"""Images that stay in their videos and are decoded when they are needed: chunks of neighbouring frames, with a cache.

A chunk begins at a key frame, where decoding can begin. LeRobot's videos have one every second frame, so a single frame
costs little more than itself; videos of other tools have hundreds of frames between them. Frames are the same to the
bit as those that `raybc.data.videos.Video` reads in order.

Letters: N rows, H, W, C height, width and channels of an image.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from raybc.causes import expect_file
from raybc.data.lazy import LazyImages
from raybc.data.videos import pixels_of, unreadable
from raybc.strict import digest
from raybc.types import UserError

#: Videos that a thread keeps open.
OPEN_VIDEOS = 16


class ChunkCache:
    """Decoded chunks of frames in main memory, up to a number of bytes; those that were not used for longest go first.

    Threads may share it.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self._bytes, self._lock = most_bytes, 0, threading.Lock()
        self._chunks: OrderedDict[tuple[Path, int], np.ndarray] = OrderedDict()

    def __reduce__(self) -> tuple[type[ChunkCache], tuple[int]]:
        return ChunkCache, (self.most_bytes,)  # in another process it starts empty

    @property
    def nbytes(self) -> int:
        """Bytes of the chunks."""
        return self._bytes

    def get(self, path: Path, key: int, frames: int) -> np.ndarray | None:
        """uint8 (n, H, W, C), n >= `frames`: the chunk from key frame `key` on; None if it is not there."""
        with self._lock:
            found = self._chunks.get((path, key))
            if found is None or len(found) < frames:
                return None
            self._chunks.move_to_end((path, key))
            return found

    def put(self, path: Path, key: int, chunk: np.ndarray) -> None:
        """Keep a chunk."""
        with self._lock:
            old = self._chunks.pop((path, key), None)
            self._bytes += chunk.nbytes - (0 if old is None else old.nbytes)
            self._chunks[path, key] = chunk
            while self._bytes > self.most_bytes:
                self._bytes -= self._chunks.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class _Index:
    """Where the frames of a video are."""

    times: np.ndarray
    """int64: presentation time of each frame in units of the stream, increasing."""
    keys: np.ndarray
    """int64: the key frames, as numbers of frames; the first is 0."""
    packets: np.ndarray
    """int64: the place of each frame in the order of decoding."""

    def number(self, time: int | None) -> int:
        """The frame at a time, or the next one."""
        return int(np.searchsorted(self.times, -1 if time is None else time))


def _indexed(path: Path, fps: float) -> _Index:
    """Read the packets of a video without decoding them. Raises `UserError` for frames that are not at k / fps."""
    try:
        with av.open(str(path), "r") as container:
            if not container.streams.video:
                raise UserError(f"{path}: expected a video, got a file without images")
            stream = container.streams.video[0]
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and not (packet.is_corrupt or packet.is_discard)
            ]
            if any(time is None for time, _ in packets) or stream.time_base is None:
                raise UserError(f"{path}: expected frames with times, which decoding on demand needs; {CONVERT}")
            times = np.array([time for time, _ in packets], np.int64)
            order = np.argsort(times, kind="stable")
            times = times[order]
            keys = np.flatnonzero(np.array([is_key for _, is_key in packets], bool)[order])
            unit = float(stream.time_base)
    except (av.FFmpegError, OSError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise unreadable(path, error) from None
    if not len(times) or not len(keys) or keys[0] != 0 or (np.diff(times) <= 0).any():
        raise UserError(f"{path}: expected frames in order after a key frame, got {len(times)} frames; {CONVERT}")
    at, expected = (times - times[0]) * unit, np.arange(len(times)) / fps
    wrong = np.flatnonzero(np.abs(at - expected) > 0.5 / fps)
    if len(wrong):
        k = int(wrong[0])
        raise UserError(f"{path}: frame {k}: expected at {expected[k]:.3f} s, got {at[k]:.3f} s")
    return _Index(times, keys, order)


#: What helps where a video cannot be decoded on demand.
CONVERT = "leave --videos decode out: then it is decoded once, in order"


class _Open:
    """A video that is open for decoding, and the frame that would come next."""

    def __init__(self, path: Path, index: _Index, grey: bool) -> None:
        self._path, self._index, self._grey = path, index, grey
        try:
            self._container = av.open(str(path), "r")
        except (av.FFmpegError, OSError) as error:
            raise unreadable(path, error) from None
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "NONE"  # several threads would decode more frames than are wanted
        self._stream.codec_context.thread_count = 1
        self._frames: Any = self._container.decode(self._stream)
        self._next = 0

    def read(self, key: int, first: int, end: int, onwards: bool) -> np.ndarray:
        """uint8 (end - first, H, W, C): frames `first` .. `end` - 1.

        key: the last key frame up to `first`. onwards: whether frames after these will be read next; otherwise no
        packet is decoded that these do not need.
        """
        try:
            return self._read(key, first, end, onwards)
        except (av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise unreadable(self._path, error) from None

    def _read(self, key: int, first: int, end: int, onwards: bool) -> np.ndarray:
        times = self._index.times
        if not (onwards and key <= self._next <= first):
            self._frames.close()
            self._container.seek(int(times[key]), stream=self._stream)
            needed = int(self._index.packets[first:end].max())
            self._frames = self._container.decode(self._stream) if onwards else self._decoded(needed)
        found: list[np.ndarray] = []
        for frame in self._frames:
            number = self._index.number(frame.pts)
            if number < first:  # of an earlier chunk
                continue
            if number != first + len(found) or frame.pts != times[number]:
                break
            found.append(pixels_of(frame, self._grey, str(self._path)))
            if len(found) == end - first:
                self._next = end if onwards else -1
                return np.stack(found)
        self._next = -1  # the next read seeks
        raise UserError(
            f"{self._path}: frame {first + len(found)}: expected to decode it, got none: the video is damaged or "
            f"truncated; raybc data verify FOLDER --images finds the episodes"
        )

    def _decoded(self, last: int) -> Any:
        """The frames of the packets up to the one at place `last`, without waiting for those that may come before."""
        for packet in self._container.demux(self._stream):
            yield from packet.decode()
            number = self._index.number(packet.pts)
            if packet.pts is not None and number < len(self._index.packets) and self._index.packets[number] >= last:
                yield from self._stream.codec_context.decode(None)
                return

    def close(self) -> None:
        self._frames.close()
        self._container.close()


class _Videos:
    """Videos of one camera: their indices, and what each thread has open."""

    def __init__(self, paths: Sequence[Path], fps: float, grey: bool, cache: ChunkCache) -> None:
        self.paths, self._fps, self._grey, self.cache = tuple(paths), fps, grey, cache
        self._indices: dict[int, _Index] = {}
        self._lock, self._thread = threading.Lock(), threading.local()

    def __reduce__(self) -> tuple[type[_Videos], tuple[Any, ...]]:
        return _Videos, (self.paths, self._fps, self._grey, self.cache)

    def index(self, file: int) -> _Index:
        with self._lock:
            found = self._indices.get(file)
        if found is None:
            expect_file(self.paths[file], "the video of the requested images")
            found = _indexed(self.paths[file], self._fps)
            with self._lock:
                self._indices[file] = found
        return found

    def chunk(self, file: int, key: int, wanted: np.ndarray, keep: bool, onwards: bool) -> np.ndarray:
        """uint8 (n, H, W, C): frames of a file.

        key: number of the key frame that decoding begins with. wanted: numbers of frames, increasing, from this key
        frame on and before the next one. keep: whether the cache keeps the chunk. onwards: as for `_Open.read`.
        """
        path, index = self.paths[file], self.index(file)
        begin, end = int(index.keys[key]), int(wanted[-1]) + 1
        if end > len(index.times):
            raise UserError(f"{path}: expected at least {end} frames, got {len(index.times)}: it has changed")
        if not keep:
            return self._opened(file).read(begin, int(wanted[0]), end, onwards)[wanted - wanted[0]]
        found = self.cache.get(path, key, end - begin)
        if found is None:
            found = self._opened(file).read(begin, begin, end, onwards)
            self.cache.put(path, key, found)
        return found[wanted - begin]

    def _opened(self, file: int) -> _Open:
        videos: OrderedDict[int, _Open] = self._thread.__dict__.setdefault("videos", OrderedDict())
        if file not in videos:
            if len(videos) >= OPEN_VIDEOS:
                videos.popitem(last=False)[1].close()
            videos[file] = _Open(self.paths[file], self.index(file), self._grey)
        videos.move_to_end(file)
        return videos[file]


class VideoFrames(LazyImages):
    """The images of a camera in videos, decoded when they are indexed."""

    def __init__(self, videos: _Videos, file_N: np.ndarray, frame_N: np.ndarray, size: tuple[int, int, int]) -> None:
        """
        Args:
            videos: the files.
            file_N: int32 (N,), the file of each row.
            frame_N: int64 (N,), its frame there.
            size: (H, W, C).
        """
        super().__init__((len(frame_N), *size))
        self._videos, self._file_N, self._frame_N = videos, file_N, frame_N

    @classmethod
    def of(
        cls, episodes: Sequence[tuple[Path, int, int]], fps: float, grey: bool, cache: ChunkCache, where: str
    ) -> VideoFrames:
        """The frames of episodes, one after another.

        Args:
            episodes: file, first frame there, and number of frames of each.
            fps: frame rate (Hz).
            grey: whether images have one channel instead of three.
            cache: chunks in main memory.
            where: the camera, for messages.

        Raises `UserError` for missing and damaged files, and for files with fewer frames.
        """
        files: dict[Path, int] = {}
        for path, _, _ in episodes:
            files.setdefault(path, len(files))
        videos = _Videos(list(files), fps, grey, cache)
        for path, first, count in episodes:
            got = len(videos.index(files[path]).times)
            if first + count > got:
                raise UserError(f"{path}: {where}: expected at least {first + count} frames, got {got}")
        size = videos.chunk(0, 0, np.zeros(1, np.int64), keep=False, onwards=True).shape[1:]
        file_N = np.repeat(np.array([files[path] for path, _, _ in episodes], np.int32), [n for _, _, n in episodes])
        frame_N = np.concatenate([np.arange(first, first + n, dtype=np.int64) for _, first, n in episodes])
        return cls(videos, file_N, frame_N, (int(size[0]), int(size[1]), int(size[2])))

    @property
    def cache(self) -> ChunkCache:
        """The chunks in main memory."""
        return self._videos.cache

    def part(self, rows: slice | np.ndarray) -> VideoFrames:
        """Some rows, in this order, not decoded yet."""
        size = (self.shape[1], self.shape[2], self.shape[3])
        return VideoFrames(self._videos, self._file_N[rows], self._frame_N[rows], size)

    def read(self, rows: np.ndarray, out: np.ndarray, keep: bool = True) -> None:
        """Decode the images of `rows`, int64 (n,), into `out`, uint8 (n, H, W, C). keep: whether the cache keeps them.

        Raises `UserError` for images of another size, and where a video is damaged or gone.
        """
        file_n, frame_n = self._file_N[rows], self._frame_N[rows]
        order = np.lexsort((frame_n, file_n))
        fits = self.cache.most_bytes // math.prod(self.shape[1:])  # frames
        for file, in_file in itertools.groupby(order.tolist(), key=lambda i: int(file_n[i])):
            keys = self._videos.index(file).keys
            wanted = np.fromiter(in_file, np.int64)
            key_of = np.searchsorted(keys, frame_n[wanted], side="right") - 1
            for key in np.unique(key_of):
                mine = wanted[key_of == key]
                kept = keep and frame_n[mine[-1]] - keys[key] < fits
                chunk = self._videos.chunk(file, int(key), frame_n[mine], kept, onwards=not keep)
                if chunk.shape[1:] != self.shape[1:]:
                    expected, got = (" x ".join(map(str, shape)) for shape in (self.shape[1:], chunk.shape[1:]))
                    raise UserError(f"{self._videos.paths[file]}: expected images of {expected}, got {got}")
                out[mine] = chunk

    def identity(self) -> str:
        """A hash (hex) of paths, sizes and dates of the files and the frames in them, without reading them."""
        stats = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in self._videos.paths]
        ends = np.flatnonzero((np.diff(self._frame_N) != 1) | (np.diff(self._file_N) != 0)) + 1
        cuts = [[int(self._file_N[i]), int(self._frame_N[i]), int(i)] for i in (0, *ends)]
        return digest([stats, cuts, list(self.shape)])
