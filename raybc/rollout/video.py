"""H.264 videos that play in a browser, many side by side, and their stills. Films of episodes: `raybc.rollout.film`."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from raybc.files import replacing

if TYPE_CHECKING:
    from PIL import Image

#: Pixels of the height of a strip of stills, and between them.
STRIP, GAP = 96, 3
#: What the comment of a video begins with that says how many frames there are before the last one is held.
_SHOWN = "raybc: frames of the episode: "


def encode(path: Path, fps: float, frames: Iterable[np.ndarray], shown: int = 0) -> None:
    """Write frames, uint8 (height, width, 3), height and width even, as mp4; whole or not at all.

    shown: of these frames, how many there are before the last one is held (0: all); the file says so.
    """
    frames = iter(frames)
    first = next(frames)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        if shown:
            container.metadata["comment"] = f"{_SHOWN}{shown}"
        stream = container.add_stream("libx264", rate=Fraction(max(fps, 0.1)).limit_denominator(1000))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "movflags": "+faststart"}
        for array in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())


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


@dataclass(frozen=True)
class Stills:
    """Images of a video as JPEG."""

    poster: bytes
    """Its last frame, which shows the outcome."""
    strip: bytes
    """Start, middle and end of the episode, side by side."""
    frame: float
    """Seconds from one frame to the next."""


def stills(path: Path) -> Stills | None:
    """Images of a video of this or an earlier release; None if the file is not a video."""
    from PIL import Image  # here, since simulator processes in environments of their own may lack it

    try:
        with av.open(str(path)) as container:
            comment = container.metadata.get("comment", "")
            stream = container.streams.video[0]
            count, rate = stream.frames, float(stream.average_rate or 10)
            shown = int(comment.removeprefix(_SHOWN)) if comment.startswith(_SHOWN) else count
            first, middle, last = None, None, None
            for number, last in enumerate(container.decode(video=0)):  # videos are short, and seeking is not exact
                first = last if first is None else first
                middle = last if number <= (shown - 1) / 2 else middle
    except (av.FFmpegError, IndexError, ValueError):
        return None
    if first is None or middle is None or last is None:
        return None
    images = [frame.to_image() for frame in (first, middle, last)]
    small = [image.resize((max(1, round(image.width * STRIP / image.height)), STRIP)) for image in images]
    width = small[0].width
    strip = Image.new("RGB", (3 * width + 2 * GAP, STRIP), "white")
    for place, image in enumerate(small):
        strip.paste(image, (place * (width + GAP), 0))
    return Stills(_jpeg(images[-1]), _jpeg(strip), 1 / rate)


def _jpeg(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=82)
    return target.getvalue()


def _frames(path: Path, side: int) -> Iterator[np.ndarray]:
    """Images of a video, scaled so that the longer edge is `side`."""
    with av.open(str(path)) as video:
        for frame in video.decode(video.streams.video[0]):
            scale = side / max(frame.width, frame.height)
            yield frame.to_ndarray(
                format="rgb24", width=max(2, round(frame.width * scale)), height=max(2, round(frame.height * scale))
            )
