"""Which anchors each training step draws: a function of (weights, seeds, step), so that training resumes exactly.

Letters: P anchors, B batch.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from raybc.data.plan.build import stable_hash
from raybc.data.plan.plan import SamplingPlan


class IndexSampler(Protocol):
    """Draws the examples of training steps, in blocks of steps."""

    def at_block(self, seed: int, block: int, steps: int, batch_size: int) -> np.ndarray:
        """Positions among the anchors, int64 (steps, B), for the steps block * steps, ..., block * steps + steps - 1 of
        the pack member with this seed."""
        ...


class WeightedSampler:
    """With replacement: every draw is anchor i with probability w_i / sum_j w_j, independently of the others."""

    def __init__(self, weights_P: np.ndarray, sampler_seed: int) -> None:
        self._sampler_seed = sampler_seed
        edges_P = np.cumsum(weights_P)
        self._edges_P = edges_P / edges_P[-1]

    def at_block(self, seed: int, block: int, steps: int, batch_size: int) -> np.ndarray:
        uniform = _random(self._sampler_seed, seed, "block", block).random((steps, batch_size))
        return np.searchsorted(self._edges_P, uniform, side="right")


class EpochSampler:
    """Without replacement: every anchor once in each epoch of P draws, heavy ones earlier; a batch may span epochs.

    The order of an epoch is that of successive draws, with the weights, among the remaining anchors: ascending E_i /
    w_i with E_i ~ Exp(1), as `torch.multinomial(weights, P, replacement=False)` does it.

    Source: P. S. Efraimidis, P. G. Spirakis, "Weighted random sampling with a reservoir", Information Processing
    Letters 97 (5), 2006, pp. 181-185.
    """

    def __init__(self, weights_P: np.ndarray, sampler_seed: int) -> None:
        self._weights_P, self._sampler_seed = weights_P, sampler_seed
        # Seed -> (epoch, its order): most blocks begin in the epoch in which the previous one ended.
        self._last: dict[int, tuple[int, np.ndarray]] = {}

    def at_block(self, seed: int, block: int, steps: int, batch_size: int) -> np.ndarray:
        count = len(self._weights_P)
        begin, size = block * steps * batch_size, steps * batch_size
        epochs = range(begin // count, (begin + size - 1) // count + 1)
        orders = np.concatenate([self._order(seed, epoch) for epoch in epochs])
        first = begin - epochs[0] * count
        return orders[first : first + size].reshape(steps, batch_size)

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        kept, order = self._last.get(seed, (-1, np.zeros(0, np.int64)))
        if kept != epoch:
            race = _random(self._sampler_seed, seed, "epoch", epoch).standard_exponential(len(self._weights_P))
            order = np.argsort(race / self._weights_P, kind="stable")
            self._last[seed] = (epoch, order)
        return order


def plan_sampler(plan: SamplingPlan, sampler_seed: int | None = None, replacement: bool | None = None) -> IndexSampler:
    """The sampler of a plan. sampler_seed, replacement: override the plan's own parameters, unless they are None."""
    seed = plan.config.sampler_seed if sampler_seed is None else sampler_seed
    with_replacement = plan.config.replacement if replacement is None else replacement
    return (WeightedSampler if with_replacement else EpochSampler)(plan.weights_P, seed)


def _random(sampler_seed: int, seed: int, *names: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stable_hash("picks", sampler_seed, seed, *names)))
