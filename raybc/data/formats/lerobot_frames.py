"""What `meta/` of a LeRobot set says about its episodes: their frames in videos, and the splits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.types import UserError


@dataclass(frozen=True)
class Frames:
    """The frames of an episode in a video."""

    path: Path
    """The video file."""
    first: int
    """The first frame."""
    declared_end: int | None = None
    """The exclusive end by `to_timestamp`; None where it is not declared."""


@dataclass(frozen=True)
class VideoUse:
    """A video file and the episodes in it."""

    path: Path
    """The file."""
    feature: str
    """The image feature, such as "observation.images.top"."""
    starts: dict[int, int]
    """Episode -> its first frame in the file."""
    ends: dict[int, int]
    """Episode -> exclusive end of its frames in the file, by the number of its rows."""
    declared: dict[int, int]
    """Episode -> the declared end, where there is one."""

    def faults(self) -> dict[int, str]:
        """Episode -> what is wrong with its frames: they overlap those of another, or are fewer or more than rows."""
        found = {}
        for episode, end in self.declared.items():
            first, rows = self.starts[episode], self.ends[episode] - self.starts[episode]
            if abs(end - self.ends[episode]) > 1:  # timestamps are rounded
                found[episode] = f"expected {rows} frames as rows, from_timestamp and to_timestamp span {end - first}"
        order = sorted(self.starts, key=lambda episode: (self.starts[episode], episode))
        for before, after in itertools.pairwise(order):
            if self.starts[after] < self.ends[before]:
                text = (
                    f"expected frames of its own, got {self.starts[after]} to {self.ends[after] - 1}, where episode "
                    f"{before} has {self.starts[before]} to {self.ends[before] - 1}"
                )
                found.setdefault(after, text)
        return found


def uses_of(episodes: Mapping[int, tuple[int, Mapping[str, Frames]]]) -> list[VideoUse]:
    """The videos of episodes. episodes: episode -> (number of rows, feature -> frames)."""
    found: dict[tuple[Path, str], VideoUse] = {}
    for episode, (length, videos) in episodes.items():
        for feature, frames in videos.items():
            use = found.setdefault((frames.path, feature), VideoUse(frames.path, feature, {}, {}, {}))
            use.starts[episode], use.ends[episode] = frames.first, frames.first + length
            if frames.declared_end is not None:
                use.declared[episode] = frames.declared_end
    return list(found.values())


def frame_faults(uses: Sequence[VideoUse]) -> dict[tuple[str, int], str]:
    """(feature, episode) -> what is wrong with its frames."""
    return {(use.feature, episode): text for use in uses for episode, text in use.faults().items()}


def split_of(text: str, numbers: np.ndarray, where: str) -> np.ndarray:
    """The places of the episodes of FIRST:END, or of several such ranges with commas between them.

    numbers: episode_index of each episode. Where numbers are missing, a range beyond the last place is one of numbers.
    Raises `UserError` for other texts and for episodes that do not exist.
    """
    found: list[np.ndarray] = []
    for piece in filter(None, text.replace(" ", "").split(",")):
        first, _, end = piece.partition(":")
        if not (first.isdigit() and end.isdigit()) or max(len(first), len(end)) > 15:
            raise UserError(f"{where}: expected FIRST:END, got {text!r}")
        low, high = int(first), int(end)
        if high > len(numbers) and high <= numbers.max(initial=-1) + 1:
            found.append(np.flatnonzero((numbers >= low) & (numbers < high)))
        elif high > len(numbers):
            raise UserError(
                f"{where}: expected a range of the {len(numbers)} episodes that meta/ describes, got {text}; correct "
                f"it to {min(low, len(numbers))}:{len(numbers)}: episodes may have been removed since it was written"
            )
        else:
            found.append(np.arange(low, high))
    return np.concatenate(found) if found else np.zeros(0, np.int64)
