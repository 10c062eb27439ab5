"""Conversion of gymnasium's spaces and images to those of `raybc.envs.base`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from raybc.envs import border
from raybc.envs.base import Obs
from raybc.types import UserError


def fields(space: gymnasium.Space[Any] | None, name: str) -> Iterator[tuple[tuple[str, ...], gymnasium.spaces.Box]]:
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


def action_space(space: gymnasium.Space[Any] | None, name: str) -> gymnasium.spaces.Box:
    """`space`, if it is a 1-D `Box` of floats with finite bounds; else `UserError` with the name of the environment."""
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0:
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        whole = not np.issubdtype(space.dtype, np.floating)
        if not whole and (low <= high).all() and (high - low < np.finfo(np.float32).max).all():
            return space
    raise UserError(
        f"actions of {name}: behaviour cloning here needs a 1-D Box with finite bounds of floating-point numbers; got "
        f"{space}. Wrap the environment in a function of yours and name it as module:function."
    )


class Reader:
    """Reads the observations of a gymnasium environment into `Obs`, and checks them.

    space: the environment's observation space. name: of the environment, in messages. obs_names: path of an observation
    ("/" between the keys of nested dicts) -> its name here, of those to keep; by default all are kept under their path,
    a bare vector as `state` and a bare image as `pixels`.
    """

    def __init__(self, space: gymnasium.Space[Any] | None, name: str, obs_names: Mapping[str, str] | None) -> None:
        self._name = name
        found = list(fields(space, name))
        if not found:
            raise UserError(f"observations of {name}: expected at least one, got {space}")
        if obs_names is not None:
            known = {"/".join(path): (path, kind) for path, kind in found}
            unknown = sorted(set(obs_names) - set(known))
            if unknown:
                raise UserError(f"obs_names of {name}: expected names among {', '.join(known)}; got {unknown}")
            named = [(ours, *known[source]) for source, ours in obs_names.items()]
        else:
            named = [
                ("/".join(path) or ("state" if len(box.shape) == 1 else "pixels"), path, box) for path, box in found
            ]
        self.space = gymnasium.spaces.Dict({ours: box for ours, _, box in named})
        self.images = tuple(ours for ours, _, box in named if box.dtype == np.uint8)
        # Computed once, so that a step adds little to the environment's own time.
        self._fields = [
            (ours, f"observation {ours!r} of {name}", path, box.shape, box.dtype) for ours, path, box in named
        ]

    def __call__(self, obs: Any) -> Obs:
        """Copies of the observations by their names here. Raises `BadEnvironment` where they are not as declared."""
        values = {}
        for ours, what, path, shape, dtype in self._fields:
            value = obs
            for key in path:
                if not isinstance(value, Mapping) or key not in value:
                    has = f"only {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
                    raise border.BadEnvironment(f"{what}: declared, but not observed: there is {has}")
                value = value[key]
            values[ours] = (border.image if dtype == np.uint8 else border.vector)(what, value, shape)
        return values


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
