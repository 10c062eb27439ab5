"""Whether values are in the units of an environment: the rules that bundles and data sets are checked with.

Normalised actions for an environment that expects pixels, or the reverse, train well and solve nothing. Letters: S
starts, O observation dim, A action dim.
"""

from __future__ import annotations

import numpy as np

#: Standard deviations (or half ranges) from the training data beyond which a start is in other units.
MAX_DISTANCE = 50.0
#: The same for a single dimension, which is worth a warning.
MAX_SCALES = 10.0
#: Share of the action space that actions have to span in some dimension; normalised actions in pixel spaces span less.
MIN_SPAN = 0.01
#: Widths of the action space that recorded actions may span. People push harder than a controller follows (robosuite
#: clips to 1 what a space mouse sends as 3.75), but not by that much.
MAX_SPAN = 10.0
#: Standard deviation below which a dimension does not vary between starts.
MIN_STD = 1e-6


def far_starts(starts_SO: np.ndarray, offset_O: np.ndarray, scale_O: np.ndarray) -> tuple[int, float] | None:
    """The dimension whose starts are farthest from `offset_O`, and the distance in units of `scale_O`; None where fewer
    than a quarter of the dimensions are more than `MAX_DISTANCE` away."""
    distance_O = np.abs((starts_SO - offset_O) / scale_O).min(axis=0)
    if (distance_O > MAX_DISTANCE).mean() < 0.25:
        return None
    worst = int(distance_O.argmax())
    return worst, float(distance_O[worst])


def far_dimensions(starts_SO: np.ndarray, offset_O: np.ndarray, scale_O: np.ndarray) -> list[tuple[int, float]]:
    """(dimension, distance in units of `scale_O`) of single dimensions whose starts are all farther than `MAX_SCALES`
    from `offset_O`: what a policy never saw, blown up by normalisation."""
    distance_O = np.abs((starts_SO - offset_O) / scale_O).min(axis=0)
    return [(int(d), float(distance_O[d])) for d in np.flatnonzero(distance_O > MAX_SCALES)]


def other_spread(starts_SO: np.ndarray, recorded_SO: np.ndarray) -> tuple[int, float] | None:
    """A dimension, and the ratio of the standard deviations of recorded and environment's starts there, where that
    ratio is beyond `MAX_DISTANCE` (or 1 / `MAX_DISTANCE`) in each of the (two or more) dimensions that vary in both.
    None otherwise."""
    ours_O, recorded_O = starts_SO.std(axis=0), recorded_SO.std(axis=0)
    vary = np.flatnonzero((ours_O > MIN_STD) & (recorded_O > MIN_STD))
    ratio = recorded_O[vary] / ours_O[vary]
    if len(vary) < 2 or len(recorded_SO) < 3 or not ((ratio > MAX_DISTANCE).all() or (ratio < 1 / MAX_DISTANCE).all()):
        return None
    worst = int(np.abs(np.log(ratio)).argmax())
    return int(vary[worst]), float(ratio[worst])


def other_actions(
    low_A: np.ndarray, high_A: np.ndarray, space_low_A: np.ndarray, space_high_A: np.ndarray, widths: float = np.inf
) -> int | None:
    """A dimension whose usual actions, `low_A` to `high_A`, do not fit the space: they lie outside it or span more than
    `widths` times its width, or no dimension spans `MIN_SPAN` of it. None where they fit."""
    outside = (high_A < space_low_A) | (low_A > space_high_A)
    reach = (high_A - low_A) / (space_high_A - space_low_A)
    outside |= reach > widths
    if outside.any():
        return int(np.argmax(outside))
    return int(reach.argmax()) if (reach < MIN_SPAN).all() else None
