"""`LazyImages`: recorded images that are read when they are indexed, such as those of videos (`raybc.data.frames`).

Letters: N rows, H, W, C height, width and channels of an image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

#: Rows that are read at a time when all are read in order.
ROWS_PER_BLOCK = 256


class LazyImages(ABC):
    """Images that stand in place of an array uint8 (N, H, W, C) of an `EpisodeStore`; `images[rows]` is a numpy array.

    Threads may read at the same time.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        """shape: (N, H, W, C)."""
        self.shape = shape

    @property
    def nbytes(self) -> int:
        """Bytes of all images as an array."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def setflags(self, write: bool = False) -> None:
        """As of an array; images are never writable."""
        if write:
            raise ValueError("recorded images cannot be made writable")

    @abstractmethod
    def part(self, rows: slice | np.ndarray) -> LazyImages:
        """Some rows, in this order, not read yet."""

    @abstractmethod
    def read(self, rows: np.ndarray, out: np.ndarray, keep: bool = True) -> None:
        """Read `rows`, int64 (n,), into `out`, uint8 (n, H, W, C). keep: whether a cache may keep them.

        Raises `UserError` for images that cannot be read.
        """

    @abstractmethod
    def identity(self) -> str:
        """A hash (hex) of which images these are, without reading them."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        """uint8 (..., H, W, C): the images of `rows`, a number, a slice or integers of any shape."""
        numbers = np.asarray(np.arange(len(self))[rows])
        out = np.empty((numbers.size, *self.shape[1:]), np.uint8)
        self.read(numbers.reshape(-1), out)
        return out.reshape(*numbers.shape, *self.shape[1:])

    def blocks(self) -> Iterator[np.ndarray]:
        """All images in order, uint8 (n, H, W, C) at a time; no cache keeps them."""
        for first in range(0, len(self), ROWS_PER_BLOCK):
            rows = np.arange(first, min(first + ROWS_PER_BLOCK, len(self)))
            out = np.empty((len(rows), *self.shape[1:]), np.uint8)
            self.read(rows, out, keep=False)
            yield out


def rows_of(array: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
    """`array[rows]`; of `LazyImages` the rows that are not read yet, which stand in place of an array."""
    return cast("np.ndarray", array.part(rows)) if isinstance(array, LazyImages) else array[rows]
