"""Windows that grow: demonstrations of all members of a pack, and own experience of each.

Letters: N transitions, M members, B batch, T observation steps, S windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raybc.data.lazy import LazyImages
from raybc.data.windows import Windows
from raybc.train.rotation import ShardRotation
from raybc.train.step import STEPS_PER_BLOCK
from raybc.types import UserError

#: Arrays of rows of others, so those of a piece move when it is appended; -1 stays.
_ROWS = ("begins_N", "ends_N", "next_N")


@dataclass(frozen=True)
class PackWindows(Windows):
    """Windows of which each member may draw its own."""

    starts_MS: Tensor | None = None
    """int64 (M, S): for each member the transitions at which its windows begin; a shorter row is filled with zeros."""

    def first(self, indices_MB: Tensor) -> Tensor:
        assert self.starts_MS is not None
        return self.starts_MS.gather(1, indices_MB)


class GrowingWindows(ShardRotation):
    """The windows of an online training. They change only between the blocks of 64 steps for which draws are made."""

    def __init__(self, demonstrations: Windows, members: int) -> None:
        """Raises `UserError` for images that are not in memory. members: M."""
        if any(isinstance(image, LazyImages) for image in demonstrations.images.values()):
            raise UserError(
                "--online_steps: expected images in memory or mapped from a file, got videos; --videos convert turns "
                "them into files once"
            )
        super().__init__([lambda: self._windows_now], [len(demonstrations.starts)], [0], 1)
        self._base = demonstrations
        self._rows = {name: _Grown(value) for name, value in _arrays(demonstrations).items()}
        self._starts = [_Grown(demonstrations.starts) for _ in range(members)]
        self._windows_now = self._assembled()

    def file_at(self, step: int) -> int:
        """The block of `step`: windows of the next one are not known yet, so nothing is read ahead of it."""
        return step // STEPS_PER_BLOCK

    def count_at(self, step: int, member: int = 0) -> int:
        """Number of windows that a member draws from, in the current block."""
        return self._starts[member].size

    def first_row(self, step: int) -> int:
        return 0

    def at(self, step: int) -> Windows:
        return self._windows_now

    def add(self, pieces: Sequence[Windows | None]) -> None:
        """Append own experience. pieces: for each member windows with the same sizes, or None."""
        for starts, piece in zip(self._starts, pieces, strict=True):
            if piece is None:
                continue
            offset = self._rows["actions_NA"].size
            for name, value in _arrays(piece).items():
                self._rows[name].append(torch.where(value < 0, value, value + offset) if name in _ROWS else value)
            starts.append(piece.starts + offset)
        self._windows_now = self._assembled()

    def _assembled(self) -> PackWindows:
        starts_MS = torch.nn.utils.rnn.pad_sequence([grown.value for grown in self._starts], batch_first=True)
        grown = _with_arrays(self._base, {name: rows.value for name, rows in self._rows.items()})
        fields = {field.name: getattr(grown, field.name) for field in dataclasses.fields(Windows)}
        return PackWindows(**fields | {"starts": starts_MS[0]}, starts_MS=starts_MS)


def with_last(windows: Windows, ends: np.ndarray, obs_EO: np.ndarray, images: Mapping[str, np.ndarray]) -> Windows:
    """`windows` of whole episodes with the observation after the last action of each, so that a critic knows what a
    time limit cut off. They are further rows, of which no window begins.

    Args:
        windows: with transitions.
        ends: the exclusive end of each episode, int64 (E,).
        obs_EO: the low-dimensional observations, normalised, float32.
        images: name -> uint8 (E, height, width, channels).
    """
    arrays, device = _arrays(windows), windows.obs_NO.device
    last_E, count = torch.from_numpy(ends - 1).to(device), len(windows.actions_NA)
    more = {name: value[last_E.to(value.device)] for name, value in arrays.items()}
    more |= {"obs_NO": torch.from_numpy(obs_EO).to(device)}
    more |= {f"{IMAGE}{name}": torch.from_numpy(image) for name, image in images.items()}
    arrays = {name: torch.cat([value, more[name].to(value.device)]) for name, value in arrays.items()}
    arrays["next_N"][last_E] = torch.arange(count, count + len(ends), device=device)
    return _with_arrays(windows, arrays)


class _Grown:
    """A tensor that rows are appended to, each in constant time on average."""

    def __init__(self, first: Tensor) -> None:
        self._data, self.size = first, len(first)

    @property
    def value(self) -> Tensor:
        """The rows so far."""
        return self._data[: self.size]

    def append(self, rows: Tensor) -> None:
        size = self.size + len(rows)
        if size > len(self._data):  # also the first time: the rows of demonstrations may be those of a file
            larger = self._data.new_empty((max(size, 2 * len(self._data)), *self._data.shape[1:]))
            larger[: self.size] = self._data[: self.size]
            self._data = larger
        self._data[self.size : size] = rows
        self.size = size


#: What names of images begin with in `_arrays`.
IMAGE = "image "


def _arrays(windows: Windows) -> dict[str, Tensor]:
    """Name -> array with a row for each transition."""
    arrays = {name: getattr(windows, name) for name in ("obs_NO", "actions_NA", "begins_N", "ends_N", "instruction_N")}
    arrays |= {f"{IMAGE}{name}": image for name, image in windows.images.items()}
    if windows.transitions is not None:
        arrays |= {name: getattr(windows.transitions, name) for name in ("rewards_N", "terminals_N", "next_N")}
    return {name: value for name, value in arrays.items() if value is not None}


def _with_arrays(windows: Windows, arrays: Mapping[str, Tensor]) -> Windows:
    """`windows` with other arrays, named as by `_arrays`."""
    images = {name.removeprefix(IMAGE): value for name, value in arrays.items() if name.startswith(IMAGE)}
    own: dict[str, Any] = {name: value for name, value in arrays.items() if not name.startswith(IMAGE)}
    of: dict[str, Any] = {name: own.pop(name) for name in ("rewards_N", "terminals_N", "next_N") if name in own}
    transitions = None if windows.transitions is None else dataclasses.replace(windows.transitions, **of)
    return dataclasses.replace(windows, **own, images=images, transitions=transitions)
