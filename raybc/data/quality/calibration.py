"""How right a classifier is, and how right it believes to be. Letters: E episodes, K classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bin:
    """Episodes whose confidence is in an interval."""

    low: float
    """Its lower end."""
    high: float
    """Its upper end."""
    episodes: int
    """How many there are."""
    confidence: float
    """Their mean confidence."""
    accuracy: float
    """Share of them whose class was predicted."""


def confusion(truth_E: np.ndarray, predicted_E: np.ndarray, classes: int) -> np.ndarray:
    """int64 (K, K): episodes of class i (row) that were taken for class j (column)."""
    return np.bincount(truth_E * classes + predicted_E, minlength=classes * classes).reshape(classes, classes)


def reliability(confidence_E: np.ndarray, correct_E: np.ndarray, bins: int = 10) -> list[Bin]:
    """Bins of equal width from 0 to 1 that are not empty; each holds its upper end.

    confidence_E: probability of the predicted class, float64 (E,). correct_E: whether it was right, bool (E,).
    """
    number_E = np.clip(np.ceil(confidence_E * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for b in np.unique(number_E).tolist():
        inside = number_E == b
        mean, right = float(confidence_E[inside].mean()), float(correct_E[inside].mean())
        found.append(Bin(b / bins, (b + 1) / bins, int(inside.sum()), mean, right))
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance of accuracy and confidence over episodes: sum over bins of n_b / n |accuracy - confidence| (Guo et
    al. 2017, "On Calibration of Modern Neural Networks"); 0 without episodes."""
    total = sum(b.episodes for b in bins)
    return sum(b.episodes * abs(b.accuracy - b.confidence) for b in bins) / total if total else 0.0
