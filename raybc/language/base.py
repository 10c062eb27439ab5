"""The interface of text encoders.

Letters: K texts, E size of an embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np


class TextEncoder(ABC):
    """A frozen function from texts to vectors."""

    is_open: ClassVar[bool] = True
    """Whether a vector depends on its text alone, so that texts which training has not seen can be embedded."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Name and version of the weights: embeddings of equal identity are interchangeable."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One vector for each of K different texts, float32 (K, E), of any length. Raises `UserError` if the weights
        cannot be read."""


def scaled(vectors_KE: np.ndarray) -> np.ndarray:
    """The vectors with a root mean square of 1, as other normalised observations, float32 (K, E)."""
    rms_K1 = np.sqrt(np.mean(vectors_KE.astype(np.float64) ** 2, axis=1, keepdims=True))
    return (vectors_KE / np.maximum(rms_K1, np.finfo(np.float32).tiny)).astype(np.float32)
