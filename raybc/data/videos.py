"""Images in videos and image files, decoded and encoded by PyAV."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from raybc.causes import cause, expect_file, head
from raybc.types import UserError


class MoreBits(UserError):
    """Images of more than 8 bits, such as depth, which are not read as colours."""


def more_bits(pixels: Any) -> str:
    """What is wrong with a pixel format (PyAV's `VideoFormat`) of more than 8 bits; "" for others."""
    bits = max((component.bits for component in pixels.components), default=8)
    return f"{bits}-bit pixels ({pixels.name}): depth or more than 8 bits" if bits > 8 else ""


def more_bits_in(path: Path) -> str:
    """`more_bits` of a video file; "" for missing and damaged files too, which reading refuses."""
    try:
        with av.open(str(path), "r") as container:
            streams = container.streams.video
            return more_bits(streams[0].codec_context.format) if streams and streams[0].codec_context.format else ""
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return ""


class Video:
    """The frames of a video. Reading forwards continues where the last read stopped; reading backwards starts again.

    fps: frame rate (Hz) that the data set declares; frame k is expected at k / fps. grey: whether to read one channel
    instead of three. Raises `UserError` for missing frames and damaged files, and `MoreBits` for more than 8 bits.
    """

    def __init__(self, path: Path, fps: float, grey: bool = False) -> None:
        expect_file(path, "the video of the requested images")
        self.path, self.fps, self.grey = path, fps, grey
        self._frames = self._decode()
        self._next = 0

    def read(self, first: int, count: int) -> np.ndarray:
        """uint8 (count, H, W, 3), or (count, H, W, 1) of grey ones: the frames `first`, `first + 1`, ..."""
        try:
            return self._read(first, count)
        except UserError:
            self._restart()
            raise

    def _restart(self) -> None:
        self._frames.close()
        self._frames, self._next = self._decode(), 0

    def _read(self, first: int, count: int) -> np.ndarray:
        if first < self._next:
            self._restart()
        images: list[np.ndarray] = []
        while self._next < first + count:
            frame = next(self._frames, None)
            if frame is None:
                raise UserError(f"{self.path}: expected at least {first + count} frames, got {self._next}")
            if self._next >= first:
                images.append(pixels_of(frame, self.grey, str(self.path)))
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
            raise unreadable(self.path, error) from None


def count_frames(path: Path) -> int:
    """Number of frames of a video file, without decoding them. Raises `UserError` for a damaged file."""
    try:
        with av.open(str(path), "r") as container:
            if not container.streams.video:
                raise UserError(f"{path}: expected a video, got a file without images")
            return sum(p.size > 0 and not p.is_corrupt for p in container.demux(container.streams.video[0]))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: BaseException) -> UserError:
    expect_file(path, "a video")
    start = head(path)
    video = start[4:8] == b"ftyp" or start.startswith(b"\x1aE\xdf\xa3")  # MP4, Matroska: damaged, and no other kind
    said = (
        cause(path, None, start[:8] if video else b"")
        or f"not readable as a video (damaged or truncated): {' '.join(str(error).split())}"
    )
    return UserError(f"{path}: {said}")


def pixels_of(frame: Any, grey: bool, where: str) -> np.ndarray:
    """A frame of PyAV as uint8 (H, W, 3), or (H, W, 1) where it is `grey`."""
    deep = more_bits(frame.format)
    if deep:
        raise MoreBits(f"{where}: expected 8-bit images, got {deep}")
    if grey and not frame.format.is_rgb:
        return np.asarray(frame.to_ndarray(format="gray"))[..., None]
    array = np.asarray(frame.to_ndarray(format="rgb24"))
    return array[..., :1] if grey else array


#: Channels -> pixel format.
FORMATS = {1: "gray", 3: "rgb24", 4: "rgba"}


def decode_image(data: bytes, where: str, channels: int = 3) -> np.ndarray:
    """A PNG or JPEG file as uint8 (H, W, `channels`), 1, 3 or 4.

    Raises `UserError`, beginning with `where`, for damaged ones, and `MoreBits` for more than 8 bits.
    """
    try:
        with av.open(io.BytesIO(data), "r") as container:
            frame = next(container.decode(video=0))
            return frame.to_ndarray(format="rgba") if channels == 4 else pixels_of(frame, channels == 1, where)
    except (av.FFmpegError, OSError, ValueError, IndexError, StopIteration) as error:
        if isinstance(error, UserError):  # which is a ValueError
            raise
        raise UserError(f"{where}: not readable as an image: {' '.join(str(error).split())}") from None


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images, uint8 (n, H, W, C), in another size, uint8 (n, height, width, C); each pixel is the mean of its area."""
    channels = images.shape[-1]
    if images.shape[1:3] == (height, width):
        return images
    found = np.empty((len(images), height, width, channels), np.uint8)
    for i, image in enumerate(images):
        array = np.ascontiguousarray(image[..., 0] if channels == 1 else image)
        frame = av.VideoFrame.from_ndarray(array, format=FORMATS[channels])
        frame = frame.reformat(width=width, height=height, interpolation="AREA")
        found[i] = frame.to_ndarray(format=FORMATS[channels]).reshape(height, width, channels)
    return found


def encode_png(image: np.ndarray) -> bytes:
    """The image, uint8 (H, W, 1, 3 or 4), as a PNG file."""
    channels = image.shape[2]
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = image.shape[1], image.shape[0], FORMATS[channels]
    codec.time_base = Fraction(1)
    array = np.ascontiguousarray(image[..., 0] if channels == 1 else image)
    packets = [*codec.encode(av.VideoFrame.from_ndarray(array, format=FORMATS[channels])), *codec.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def encode_jpeg(image: np.ndarray) -> bytes:
    """The image, uint8 (H, W, 1, 3 or 4), as a JPEG file that looks like it; transparency is dropped."""
    channels = image.shape[2]
    array = np.ascontiguousarray(image[..., 0] if channels == 1 else image)
    return jpeg_of(av.VideoFrame.from_ndarray(array, format=FORMATS[channels]))


def jpeg_of(frame: Any) -> bytes:
    """A frame of PyAV as a JPEG file."""
    codec: Any = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = frame.width, frame.height, "yuvj420p", Fraction(1, 25)
    codec.options = {"qmin": "2", "qmax": "4"}
    same = frame.reformat(format="yuvj420p")
    same.pts = None
    return b"".join(bytes(packet) for packet in [*codec.encode(same), *codec.encode(None)])


#: How videos are encoded -> encoder, pixel format and options. Lossy ones have a key frame every second frame and, for
#: AV1, LeRobot's quality (crf 30): single frames are read quickly, and files are small.
ENCODINGS: dict[str, tuple[str, str, dict[str, str]]] = {
    "lossless": ("libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"}),
    "h264": ("libx264", "yuv420p", {"crf": "23", "g": "2", "preset": "fast"}),
    "av1": ("libsvtav1", "yuv420p", {"crf": "30", "g": "2", "preset": "8"}),
}


@contextlib.contextmanager
def _usual_priority() -> Iterator[Callable[[], None]]:
    """Take away the real-time priority that SVT-AV1 gives to its threads and to its caller's where it may (to root).
    They, and every process that the caller starts later, would leave no time to others. Call what is yielded when the
    encoder is open."""
    own = os.sched_getscheduler(0), os.sched_getparam(0)
    real_time = (os.SCHED_FIFO, os.SCHED_RR)

    def restore() -> None:
        for thread in Path("/proc/self/task").iterdir() if own[0] not in real_time else ():
            with contextlib.suppress(ProcessLookupError):  # it has ended
                if os.sched_getscheduler(int(thread.name)) in real_time:
                    os.sched_setscheduler(int(thread.name), *own)

    try:
        yield restore
    finally:
        restore()


def write_video(path: Path, frames: np.ndarray, fps: float, encoding: str = "lossless") -> None:
    """Write frames, uint8 (n, H, W, 1 or 3), at `fps` Hz. encoding: key of `ENCODINGS`; lossless H.264 keeps every bit.

    Raises `UserError` for other channels, which videos cannot store, and where the encoder refuses the images.
    """
    channels, (encoder, pixels, options) = frames.shape[-1], ENCODINGS[encoding]
    if channels not in (1, 3):
        raise UserError(
            f"{path}: expected images with 1 or 3 channels for a video, got {channels}; write another format"
        )
    os.environ.setdefault("SVT_LOG", "1")  # the encoder of AV1 would print twenty lines about every video
    try:
        with _usual_priority() as restore, av.open(str(path), "w", format="mp4") as container:
            rate = Fraction(fps).limit_denominator(1000)
            stream: Any = container.add_stream(encoder, rate=rate, options=options)
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
            for array in frames:
                colours = np.repeat(array, 3, axis=-1) if channels == 1 else array  # grey of H.264 has another range
                container.mux(stream.encode(av.VideoFrame.from_ndarray(colours, format="rgb24")))
                restore()  # the first frame opens the encoder
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:
        size = " x ".join(map(str, frames.shape[1:]))
        raise UserError(
            f"{path}: images {size} cannot be encoded as {encoding}: {' '.join(str(error).split())}"
        ) from None
