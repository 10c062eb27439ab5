"""Images in videos and image files, decoded and encoded by PyAV."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from raybc.causes import cause, expect_file
from raybc.types import UserError


class Video:
    """The frames of a video. Reading forwards continues where the last read stopped; reading backwards starts again.

    fps: frame rate (Hz) that the data set declares; frame k is expected at k / fps. Raises `UserError` for missing
    frames and damaged files.
    """

    def __init__(self, path: Path, fps: float) -> None:
        expect_file(path, "the video of the requested images")
        self.path, self.fps = path, fps
        self._frames = self._decode()
        self._next = 0

    def read(self, first: int, count: int) -> np.ndarray:
        """uint8 (count, H, W, 3): the frames `first`, `first + 1`, ..."""
        if first < self._next:
            self._frames.close()
            self._frames, self._next = self._decode(), 0
        images: list[np.ndarray] = []
        while self._next < first + count:
            frame = next(self._frames, None)
            if frame is None:
                raise UserError(f"{self.path}: expected at least {first + count} frames, got {self._next}")
            if self._next >= first:
                images.append(frame.to_ndarray(format="rgb24"))
            self._next += 1
        return np.stack(images)

    def close(self) -> None:
        self._frames.close()

    def _decode(self):  # type: ignore[no-untyped-def]  # a generator of PyAV's frames, which can be closed
        try:
            with av.open(str(self.path), "r") as container:
                if not container.streams.video:
                    raise UserError(f"{self.path}: expected a video, got a file without images")
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                start = None
                for k, frame in enumerate(container.decode(stream)):
                    start = frame.time if start is None else start
                    if frame.time is not None and abs(frame.time - start - k / self.fps) > 0.5 / self.fps:
                        at, expected = frame.time - start, k / self.fps
                        raise UserError(f"{self.path}: frame {k}: expected at {expected:.3f} s, got {at:.3f} s")
                    yield frame
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            if isinstance(error, UserError):
                raise
            raise _unreadable(self.path, error) from None


def count_frames(path: Path) -> int:
    """Number of frames of a video file, without decoding them. Raises `UserError` for a damaged file."""
    try:
        with av.open(str(path), "r") as container:
            if not container.streams.video:
                raise UserError(f"{path}: expected a video, got a file without images")
            return sum(p.size > 0 and not p.is_corrupt for p in container.demux(container.streams.video[0]))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: BaseException) -> UserError:
    expect_file(path, "a video")
    said = cause(path, None) or f"not readable as a video (damaged or truncated): {' '.join(str(error).split())}"
    return UserError(f"{path}: {said}")


def decode_image(data: bytes, where: str) -> np.ndarray:
    """A PNG or JPEG file as uint8 (H, W, 3). Raises `UserError`, beginning with `where`, for damaged ones."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            return next(container.decode(video=0)).to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError, ValueError, IndexError, StopIteration) as error:
        raise UserError(f"{where}: not readable as an image: {' '.join(str(error).split())}") from None


def encode_png(image: np.ndarray) -> bytes:
    """The image, uint8 (H, W, 3), as a PNG file."""
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = image.shape[1], image.shape[0], "rgb24"
    codec.time_base = Fraction(1)
    packets = [*codec.encode(av.VideoFrame.from_ndarray(image, format="rgb24")), *codec.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def write_lossless(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write frames, uint8 (n, H, W, 3), as lossless H.264 at `fps` Hz."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "rgb24"
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
