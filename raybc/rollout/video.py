"""H.264 videos that play in a browser."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import av
import numpy as np

from raybc.files import replacing


class VideoWriter:
    """Collects uint8 frames (height, width, 3) and writes an mp4 when closed; whole or not at all."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._frames: list[np.ndarray] = []

    def add(self, frame: np.ndarray) -> None:
        # yuv420p halves the colour resolution, so sides must be even; browsers play nothing else.
        self._frames.append(np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]))

    def close(self) -> None:
        if not self._frames:
            return
        height, width = self._frames[0].shape[:2]
        with replacing(self.path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=max(1, round(self.fps)))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": "23", "movflags": "+faststart"}
            for array in self._frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode())

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
