"""Conversion of gymnasium's spaces and images to those of `raybc.envs.base`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from raybc.types import UserError


def fields(space: gymnasium.Space[Any], name: str) -> Iterator[tuple[tuple[str, ...], gymnasium.spaces.Box]]:
    """(keys from the outermost dict to the observation, its `Box` here) of every observation in `space`.

    Raises `UserError`, with the name of the environment, for spaces that are neither vectors, images nor dicts of
    these.
    """
    if isinstance(space, gymnasium.spaces.Dict):
        for key, inner in space.items():
            for path, box in fields(inner, name):
                yield (str(key), *path), box
    elif isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        # Without bounds: many environments declare bounds and exceed them.
        yield (), gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
    elif isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and space.shape[2:] == (3,):
        yield (), gymnasium.spaces.Box(0, 255, space.shape, np.uint8)
    else:
        raise UserError(
            f"observations of {name}: expected vectors (a 1-D Box), images (a uint8 Box of height x width "
            f"x 3) or a Dict of these; got {space}. Wrap the environment (e.g. in "
            "gymnasium.wrappers.FlattenObservation) in a function of yours and name it as module:function."
        )


def action_space(space: gymnasium.Space[Any], name: str) -> gymnasium.spaces.Box:
    """`space`, if it is a bounded 1-D `Box`; else `UserError` with the name of the environment."""
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        return space
    raise UserError(
        f"actions of {name}: behaviour cloning here needs a 1-D Box with finite bounds; got {space}. Wrap the "
        "environment in a function of yours and name it as module:function."
    )


def fit(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """`frame`, uint8 (h, w, 3), scaled to uint8 (height, width, 3) with black bars where the proportions differ."""
    if frame.shape[:2] == (height, width):
        return np.ascontiguousarray(frame)
    import av  # slow to import, and few environments need it: those that render at a fixed size

    scale = min(width / frame.shape[1], height / frame.shape[0])
    w, h = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    scaled = image.reformat(width=w, height=h, interpolation="AREA").to_ndarray()
    fitted = np.zeros((height, width, 3), np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    fitted[top : top + h, left : left + w] = scaled
    return fitted
