"""The noise that chunks are sampled from: one stream of random numbers for each candidate of `best_of_n`.

The first candidate has the stream of N = 1, and no stream depends on N. So the candidates of a small N are the first
ones of every larger N, and settings are compared on the same noise. No torch in here.

Letters: B batch, N candidates, H chunk, A action dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Noise:
    """Standard normal numbers for the chunks of one purpose."""

    def __init__(self, seed: Sequence[int] | None, candidates: int) -> None:
        """seed: what identifies the stream; None: random. candidates: N of the sample setting."""
        seeds = [None if seed is None else [*seed, *([n] if n else [])] for n in range(candidates)]
        self._streams = [np.random.default_rng(one) for one in seeds]

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next numbers, float64; shape: (..., H, A). With several candidates they are (..., N, H, A)."""
        drawn = [stream.standard_normal(shape) for stream in self._streams]
        return drawn[0] if len(drawn) == 1 else np.stack(drawn, axis=-3)
