"""Whether numbers are in the units of an environment: the rules that bundles and data sets are checked with.

Normalised actions in an environment that takes pixels, or the reverse, train well and solve nothing. Letters: S starts,
O observation dim, A action dim.
"""

from __future__ import annotations

import numpy as np

#: Standard deviations (or half ranges) from what training saw at which a start counts as another unit.
FAR = 50.0
#: Share of the action space that actions must reach in some dimension; normalised actions in pixel spaces reach less.
SHARE = 0.01
#: Widths of the action space that recorded actions may span. People push harder than a controller follows (robosuite's
#: clips at 1 what a space mouse gives as 3.75), but not by that much.
WIDTHS = 10.0
#: Below this, numbers of a start do not vary.
STILL = 1e-6


def far_starts(starts_SO: np.ndarray, offset_O: np.ndarray, scale_O: np.ndarray) -> tuple[int, float] | None:
    """The dimension whose starts are farthest from `offset`, and by how many scales; None where fewer than a quarter of
    the dimensions are `FAR` away."""
    distance_O = np.abs((starts_SO - offset_O) / scale_O).min(axis=0)
    if (distance_O > FAR).mean() < 0.25:
        return None
    worst = int(distance_O.argmax())
    return worst, float(distance_O[worst])


def other_spread(starts_SO: np.ndarray, recorded_SO: np.ndarray) -> tuple[int, float] | None:
    """A dimension, and how many times wider the recorded starts spread there than the environment's, where they are
    `FAR` times wider or narrower in each of the (two or more) dimensions that vary at both. None otherwise."""
    ours_O, recorded_O = starts_SO.std(axis=0), recorded_SO.std(axis=0)
    vary = np.flatnonzero((ours_O > STILL) & (recorded_O > STILL))
    ratio = recorded_O[vary] / ours_O[vary]
    if len(vary) < 2 or len(recorded_SO) < 3 or not ((ratio > FAR).all() or (ratio < 1 / FAR).all()):
        return None
    worst = int(np.abs(np.log(ratio)).argmax())
    return int(vary[worst]), float(ratio[worst])


def other_actions(
    low_A: np.ndarray, high_A: np.ndarray, space_low_A: np.ndarray, space_high_A: np.ndarray, widths: float = np.inf
) -> int | None:
    """A dimension whose usual actions, `low` to `high`, are not those of the space: they lie outside of it or are more
    than `widths` times as wide, or none of the dimensions reaches `SHARE` of it. None where they fit."""
    outside = (high_A < space_low_A) | (low_A > space_high_A)
    reach = (high_A - low_A) / (space_high_A - space_low_A)
    outside |= reach > widths
    if outside.any():
        return int(np.argmax(outside))
    return int(reach.argmax()) if (reach < SHARE).all() else None
