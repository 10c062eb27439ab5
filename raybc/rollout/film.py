"""The film of one episode: every n-th step with its number, then the outcome, held for a second.

An episode ends with the step that decides it, often before anything is to be seen. The last frame is held rather than
the simulator stepped on: after its end an environment may raise, reset itself or move the objects, and a film must show
the episode that was counted, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raybc.rollout.video import encode
from raybc.types import EpisodeSpec, Outcome

#: Seconds for which the last frame stays.
HELD = 1.0
#: Colours of the banner; white letters have a contrast of at least 4.5 on each.
BACKGROUND = (33, 38, 45)
COLOURS: dict[Outcome, tuple[int, int, int]] = {
    "success": (22, 110, 62), "failure": (166, 44, 36), "timeout": (138, 88, 0), "error": (90, 60, 120),
}  # fmt: skip


class Film:
    """Collects frames, uint8 (height, width, 3), and writes them as mp4 with a banner above each."""

    def __init__(self, fps: float, spec: EpisodeSpec) -> None:
        """
        Args:
            fps: frames per second.
            spec: the start, which the banner names.
        """
        self._fps, self._spec = fps, spec
        self._frames: list[np.ndarray] = []
        self._steps: list[int] = []

    def add(self, step: int, frame: np.ndarray) -> None:
        """What is seen after `step` steps; a step that was added before is replaced."""
        # yuv420p halves the colour resolution, so sides must be even; browsers play nothing else.
        even = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        if self._steps and self._steps[-1] == step:
            self._frames.pop()
            self._steps.pop()
        self._frames.append(even)
        self._steps.append(step)

    def write(self, path: Path, outcome: Outcome) -> None:
        """Write the film; whole or not at all."""
        split, index = self._spec.split, self._spec.index
        start = f"start {index}"
        shown = [
            with_banner(frame, [f"{split} {start}   step {step}", f"{start}  step {step}", f"step {step}"], BACKGROUND)
            for step, frame in zip(self._steps, self._frames, strict=True)
        ]
        step = self._steps[-1]
        texts = [f"{outcome}   {split} {start}   step {step}", f"{outcome}  {start}  step {step}", outcome]
        last = with_banner(self._frames[-1], [*texts[:2], f"{outcome} {step}", outcome], COLOURS[outcome])
        held = [last] * max(1, math.ceil(HELD * self._fps))
        encode(path, self._fps, [*shown[:-1], last, *held], shown=len(shown))


def with_banner(frame: np.ndarray, texts: Sequence[str], colour: tuple[int, int, int]) -> np.ndarray:
    """The frame, uint8 (height, width, 3), with a line above it: the first of `texts` that fits into the width.

    Above, since the controls of players cover what is below.

    Without Pillow, which an environment of a simulator's own may lack, it is the frame alone.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        return frame
    height, width = frame.shape[:2]
    band = max(14, round(min(height, width) / 13) // 2 * 2)
    image = Image.new("RGB", (width, band), colour)
    font = ImageFont.load_default(round(0.72 * band))  # comes with Pillow
    room = width - band // 2
    text = next((text for text in texts if font.getlength(text) <= room), texts[-1])
    ImageDraw.Draw(image).text((band // 4, band / 2), text, fill="white", font=font, anchor="lm")
    return np.concatenate([np.asarray(image), frame])
