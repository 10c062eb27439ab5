"""The one notion of an image: uint8, height x width x 1, 3 or 4 channels, height and width above 4.

Whatever else resembles one is converted where that is certain: channels first, grey without an axis of channels, and
colours as floats from 0 to 1 or whole numbers from 0 to 255. Depth, masks and more than 8 bits never become images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raybc.data.episodes import format_shape

CHANNELS = (1, 3, 4)
#: Height and width of the smallest image.
SMALLEST = 5
#: Height and width from which numbers that are not bytes are taken for an image (or depth), not for a matrix.
NO_MATRIX = 16


class Unfit(Exception):
    """What a requested image is instead; it is left out."""


class NotCertain(Unfit):
    """It may be an image, but its layout or range is not certain; it is refused."""


def is_image(array: Any) -> bool:
    """Whether rows of an array (or HDF5 data set) are images: uint8, height x width x channels."""
    return bool(array.dtype == np.uint8) and array.ndim == 4 and _has_channels_last(tuple(array.shape[1:]))


def _has_channels_last(row: tuple[int, ...]) -> bool:
    return len(row) == 3 and row[2] in CHANNELS and min(row[:2]) >= SMALLEST


def _has_channels_first(row: tuple[int, ...]) -> bool:
    return len(row) == 3 and row[0] in CHANNELS and min(row[1:]) >= SMALLEST


def resembles_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether rows of an array of `shape` (n, ...) are images in any layout and range, so that they must not be taken
    for a vector of numbers."""
    row = tuple(shape[1:])
    if len(row) < 2:
        return False
    side = sorted(row)[-2]
    if dtype == np.uint8 and len(row) == 3:
        return True
    if dtype.kind in "ui" and dtype.itemsize <= 2:
        return side >= SMALLEST
    return side >= (SMALLEST if _has_channels_last(row) or _has_channels_first(row) else NO_MATRIX)


def as_image(name: str, array: np.ndarray, scales: dict[str, float]) -> tuple[np.ndarray, str]:
    """`array` (n, ...) as uint8 (n, H, W, C), and how it was converted, for people.

    scales: image -> the value of white in floats, which is the same in all episodes; new ones are added. Raises `Unfit`
    for what is no image, and `NotCertain` for what may be one.
    """
    row = tuple(array.shape[1:])
    got = f"{array.dtype} {format_shape(row)}"
    channels = 1 if len(row) == 2 else row[2] if _has_channels_last(row) else row[0] if _has_channels_first(row) else 0
    if array.dtype.kind == "b":
        raise Unfit(f"{got}: a mask")
    if channels == 1 and ("depth" in name.lower() or array.dtype != np.uint8):
        raise Unfit(f"{got}: depth or more than 8 bits")
    if array.dtype.kind in "ui" and array.dtype != np.uint8 and not _in_bytes(array):
        raise Unfit(f"{got} up to {array.max()}: more than 8 bits")
    steps = [] if array.dtype == np.uint8 else [f"{array.dtype} became uint8"]
    if len(row) == 2:
        image = array[..., None]
        steps.append("grey without channels")
    elif _has_channels_last(row):
        image = array
    elif _has_channels_first(row) and row[0] != 4:
        image = np.moveaxis(array, 1, -1)
        steps.append(f"channels first ({format_shape(row)})")
    elif _has_channels_first(row):
        raise NotCertain(f"{got}: four grey images, or four channels first")
    else:
        raise NotCertain(f"{got}: a stack of images, or another layout")
    if array.dtype.kind == "f":
        image = _from_floats(name, image, scales)
        steps.append(f"floats from 0 to {scales.get(name, 1):g}")
    return np.ascontiguousarray(image, np.uint8), "converted: " + ", ".join(steps)


def _in_bytes(array: np.ndarray) -> bool:
    return array.size == 0 or (array.min() >= 0 and array.max() <= 255)


def _from_floats(name: str, image: np.ndarray, scales: dict[str, float]) -> np.ndarray:
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0 or high > 255:
        raise NotCertain(f"floats from {low:g} to {high:g}: expected 0 to 1, or 0 to 255")
    whole = bool((image == np.round(image)).all())
    if name not in scales and high > 0:
        if whole == (high <= 1):  # only zeros and ones, or fractions of a range that is not known
            raise NotCertain(f"floats from {low:g} to {high:g}: their white may be 1 or 255")
        scales[name] = 255.0 if whole else 1.0
    white = scales.get(name, 1.0)
    if high > white or (white == 255 and not whole):
        raise NotCertain(f"floats from {low:g} to {high:g}, in other episodes with a white of {white:g}")
    return np.round(image * (255.0 / white)).astype(np.uint8)
