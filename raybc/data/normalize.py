"""Normalisation: fitted once on the training split, applied by `Normalizer.apply`, inverted by `Normalizer.invert`.

Physical units outside, normalised units inside: `normalised = (x - offset) / scale`. Letters: O observation dim,
A action dim; any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raybc.config import Normalization
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.data.stats import Summary

#: Scale below which a dimension counts as constant; it is shifted but not scaled, which would only amplify noise.
CONSTANT = 1e-6
#: Half range of a dimension, as a share of the largest one of its observation or of its own values, below which it
#: hardly moves, and below which it is small whatever its observation.
HARDLY, SMALL = 1e-3, 1e-3
#: The quantiles that the kind `quantile` maps to -1 and 1, and that statistics contain.
QUANTILES = (0.01, 0.99)


@dataclass(frozen=True)
class Normalizer:
    """An affine map for each dimension."""

    offset: np.ndarray
    """float32 (D,), in the units of the data."""
    scale: np.ndarray
    """float32 (D,), above 0, in the units of the data."""

    def __post_init__(self) -> None:
        if self.offset.shape != self.scale.shape or self.offset.ndim != 1:
            raise UserError(f"normalisation: offset {self.offset.shape} and scale {self.scale.shape} do not match")
        if not (np.isfinite(self.offset).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise UserError("normalisation: expected finite offsets and scales above 0")

    @classmethod
    def fit(cls, values: np.ndarray, kind: Normalization) -> Normalizer:
        """Fit to `values` (N, D).

        mean_std: mean 0, standard deviation 1. min_max: the range becomes [-1, 1]. quantile: the range between the
        quantiles 0.01 and 0.99 becomes [-1, 1], and values outside exceed it (nothing is clipped). identity: no change.
        Constant dimensions (quantile: those with equal quantiles) are shifted to 0 and not scaled.
        """
        values = values.astype(np.float64)
        if kind == "mean_std":
            offset, scale = values.mean(0), values.std(0)
        elif kind in ("min_max", "quantile"):
            low, high = (values.min(0), values.max(0)) if kind == "min_max" else np.quantile(values, QUANTILES, axis=0)
            offset, scale = (low + high) / 2, (high - low) / 2
        else:
            offset, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
        return cls.affine(offset, scale)

    @classmethod
    def from_summary(cls, summary: Summary, kinds: Sequence[str]) -> Normalizer:
        """As `fit_columns`, from statistics instead of values; a kind for each of the D dimensions."""
        means = {"mean_std": summary.mean, "identity": np.zeros(len(kinds))}
        scales = {"mean_std": summary.std, "identity": np.ones(len(kinds))}
        for kind, low, high in (("min_max", summary.min, summary.max), ("quantile", summary.q01, summary.q99)):
            means[kind], scales[kind] = (low + high) / 2, (high - low) / 2
        chosen = [np.array([of[kind][i] for i, kind in enumerate(kinds)]) for of in (means, scales)]
        return cls.affine(*chosen)

    @classmethod
    def affine(cls, offset: np.ndarray, scale: np.ndarray) -> Normalizer:
        """With scale 1 in place of scales below `CONSTANT`."""
        scale = np.where(scale < CONSTANT, 1.0, scale)
        return cls(offset.astype(np.float32), scale.astype(np.float32))

    @classmethod
    def fit_columns(cls, values: np.ndarray, kinds: Sequence[Normalization]) -> Normalizer:
        """As `fit`, with a kind for each of the D dimensions of `values` (N, D)."""
        offset, scale = np.zeros(values.shape[1], np.float32), np.ones(values.shape[1], np.float32)
        for kind in dict.fromkeys(kinds):  # each over all dimensions: so sums do not depend on how they are grouped
            fitted, chosen = cls.fit(values, kind), np.array(kinds) == kind
            offset[chosen], scale[chosen] = fitted.offset[chosen], fitted.scale[chosen]
        return cls(offset, scale)

    def with_floor(
        self, low_D: np.ndarray, high_D: np.ndarray, kinds: Sequence[str], sizes: Sequence[int]
    ) -> Normalizer:
        """The same, but dimensions that hardly move are not blown up: they get the largest scale of their observation.

        low_D, high_D: range of the values it was fitted to. sizes: dimensions of each observation, in order. Kinds
        `identity` stay as they are.
        """
        concerned = hardly_move(low_D, high_D, sizes) & (np.array(kinds) != "identity")
        if not concerned.any():
            return self
        scale, end = self.scale.copy(), 0
        for size in sizes:
            part = slice(end, end + size)
            usual = ~concerned[part] & (high_D[part] - low_D[part] > 2 * CONSTANT)
            top = self.scale[part][usual].max(initial=0)
            scale[part][concerned[part]] = top or 1.0
            end += size
        return Normalizer(self.offset, scale)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Physical -> normalised, float32 (..., D)."""
        return (x - self.offset) / self.scale

    def invert(self, x: np.ndarray) -> np.ndarray:
        """Normalised -> physical, float32 (..., D)."""
        return x * self.scale + self.offset


def hardly_move(low_D: np.ndarray, high_D: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """bool (D,): dimensions that move so little in the data that scaling would only amplify noise.

    They vary less than `HARDLY` times as much as another dimension of their observation and are small, or small
    compared with their own values; or both of the latter. Constant ones are not among them. low_D, high_D: lowest and
    highest values. sizes: dimensions of each observation, in order.
    """
    half_D = (np.asarray(high_D, np.float64) - low_D) / 2
    values_D = np.maximum(np.abs(low_D), np.abs(high_D))
    top_D = np.concatenate([np.full(size, part.max(initial=0)) for part, size in _parts(half_D, sizes)])
    small, fixed = half_D < SMALL, half_D < HARDLY * values_D
    found: np.ndarray = (half_D >= CONSTANT) & (((half_D < HARDLY * top_D) & (small | fixed)) | (small & fixed))
    return found


def _parts(values_D: np.ndarray, sizes: Sequence[int]) -> list[tuple[np.ndarray, int]]:
    ends = np.cumsum(sizes)
    return [(values_D[end - size : end], size) for end, size in zip(ends, sizes, strict=True)]
