"""H.264 videos that play in a browser: of one episode, and of many side by side."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from raybc.files import replacing


def encode(path: Path, fps: float, frames: Iterable[np.ndarray]) -> None:
    """Write frames, uint8 (height, width, 3), height and width even, as mp4; whole or not at all."""
    frames = iter(frames)
    first = next(frames)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(1, round(fps)))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "movflags": "+faststart"}
        for array in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())


class VideoWriter:
    """Collects uint8 frames (height, width, 3) and writes an mp4 when closed; whole or not at all."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._frames: list[np.ndarray] = []

    def add(self, frame: np.ndarray) -> None:
        # yuv420p halves the colour resolution, so sides must be even; browsers play nothing else.
        self._frames.append(np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]))

    def close(self) -> None:
        if self._frames:
            encode(self.path, self.fps, self._frames)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()


def episode_name(task: str, index: int, outcome: str) -> str:
    """`lift_3_success.mp4`; characters that do not belong in a file name become `_`."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '_', task)}_{index}_{outcome}.mp4"


#: Colours of a grid video's borders.
BORDER = {"success": (40, 160, 70), "failure": (200, 60, 50), "timeout": (225, 160, 40)}


def write_grid(videos: Sequence[tuple[Path, str]], path: Path, side: int = 192, border: int = 4) -> None:
    """Write many episodes as one mp4: a square grid of (video, outcome), each framed in the colour of its outcome
    (green success, red failure, amber timeout) and frozen on its last frame when it ends.

    side: pixels of an image's longer edge.
    """
    columns = math.ceil(math.sqrt(len(videos)))
    rows = math.ceil(len(videos) / columns)
    with av.open(str(videos[0][0])) as first:
        fps = float(first.streams.video[0].average_rate or 10)
    readers = [_frames(video, side) for video, _ in videos]
    images: list[np.ndarray | None] = [next(reader) for reader in readers]
    height, width = (max(p.shape[axis] for p in images if p is not None) + 2 * border for axis in (0, 1))
    canvas = np.full((rows * height // 2 * 2, columns * width // 2 * 2, 3), 24, np.uint8)

    def frames() -> Iterator[np.ndarray]:
        while any(image is not None for image in images):
            for number, image in enumerate(images):
                if image is None:
                    continue
                top, left = number // columns * height, number % columns * width
                canvas[top : top + height, left : left + width] = BORDER.get(videos[number][1], (24, 24, 24))
                inner = canvas[top + border : top + height - border, left + border : left + width - border]
                inner[:] = 24
                inner[: image.shape[0], : image.shape[1]] = image[: inner.shape[0], : inner.shape[1]]
            yield canvas
            images[:] = [next(reader, None) for reader in readers]

    encode(path, fps, frames())


def last_frame_jpeg(path: Path) -> bytes | None:
    """The last frame of a video as JPEG, for print; None if the file is not a video."""
    try:
        with av.open(str(path)) as container:
            frame = None
            for frame in container.decode(video=0):  # noqa: B007  (videos are short, and seeking is not exact)
                pass
    except (av.FFmpegError, IndexError):
        return None
    if frame is None:
        return None
    coder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(coder, av.VideoCodecContext)
    coder.width, coder.height, coder.pix_fmt, coder.time_base = frame.width, frame.height, "yuvj420p", Fraction(1, 25)
    image = frame.reformat(format="yuvj420p")
    image.pts = None
    return b"".join(bytes(packet) for packet in [*coder.encode(image), *coder.encode(None)])


def _frames(path: Path, side: int) -> Iterator[np.ndarray]:
    """Images of a video, scaled so that the longer edge is `side`."""
    with av.open(str(path)) as video:
        for frame in video.decode(video.streams.video[0]):
            scale = side / max(frame.width, frame.height)
            yield frame.to_ndarray(
                format="rgb24", width=max(2, round(frame.width * scale)), height=max(2, round(frame.height * scale))
            )
