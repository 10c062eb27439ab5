"""Checks of observations and action ranges from users, in physical units. Needs only numpy.

Letters: A action dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raybc.data.episodes import format_shape
from raybc.strict import did_you_mean
from raybc.types import UserError

#: (lowest, highest) action; each a number or (A,).
ActionRange = tuple[Any, Any]


def validate_action_range(action_range: ActionRange, action_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest action, float32 (A,) each. Raises `UserError` for an invalid range."""
    try:
        low, high = (np.broadcast_to(np.asarray(end, np.float32), (action_size,)) for end in action_range)
    except (ValueError, TypeError):
        low = high = np.full(1, np.nan, np.float32)
    if not (low <= high).all():
        raise UserError(
            f"action_range: expected the lowest and the highest action, numbers or {action_size} numbers each, got "
            f"{action_range!r}"
        )
    return low, high


def validate_observation(
    obs_sizes: Mapping[str, int], images: Mapping[str, tuple[int, int, int]], obs: Any
) -> dict[str, np.ndarray]:
    """The observations that a policy sees: name -> float32 (size,), or uint8 (height, width, channels) for images.

    Args:
        obs_sizes: low-dimensional observation -> size.
        images: image -> (height, width, channels).
        obs: name -> array or nested lists; other names are ignored. Where the policy sees a single observation, also
            that array alone.

    Raises `UserError` for a missing observation, a wrong shape or dtype, and for nan or inf.
    """
    shapes: dict[str, tuple[int, ...]] = {name: (size,) for name, size in obs_sizes.items()}
    shapes |= images
    obs = named_observation(obs, list(shapes))
    return {name: _checked(name, shape, obs, name in images) for name, shape in shapes.items()}


def named_observation(obs: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """`obs`, name -> array; an array alone is the only observation that the policy sees. Raises `UserError` otherwise.

    names: what the policy sees.
    """
    if isinstance(obs, Mapping):
        return obs
    is_array = isinstance(obs, np.ndarray | list | tuple)
    if len(names) == 1 and is_array:
        return {names[0]: obs}
    why = f", since the policy sees {', '.join(names)}" if is_array else ""
    raise UserError(f"observations: expected name -> array{why}, got {type(obs).__name__}")


def _checked(name: str, shape: tuple[int, ...], obs: Mapping[str, Any], image: bool) -> np.ndarray:
    kind = "an image of whole numbers 0..255" if image else "finite numbers"
    expected = f"observation {name!r}: expected {kind}, {format_shape(shape)}"
    if name not in obs:
        raise UserError(f"{expected}, got none of that name; {did_you_mean(name, map(str, obs))}")
    try:
        value = np.asarray(obs[name])
    except (ValueError, TypeError, OverflowError):  # lists of different lengths
        raise UserError(f"{expected}, got something that is not a numeric array") from None
    if value.shape != shape or value.dtype.kind not in ("ui" if image else "uif"):
        raise UserError(f"{expected}, got {format_shape(value.shape) or 'a single value'} of {value.dtype.name}")
    if image:
        if value.dtype != np.uint8 and not ((value >= 0) & (value <= 255)).all():
            raise UserError(f"{expected}, got {value.min()}..{value.max()}")
        return value.astype(np.uint8, copy=False)
    with np.errstate(over="ignore"):  # values beyond float32 become inf, which is refused below
        value = value.astype(np.float32, copy=False)
    if not np.isfinite(value).all():
        raise UserError(f"{expected}, got nan or inf")
    return value
