"""One gradient step of a pack, and where its randomness comes from.

Member m's initial weights, data order and draws depend on its own seed alone, never on the size of the pack. Random
numbers are drawn for blocks of steps from a generator seeded with (seed, block): a training state holds no generator,
so resuming at step k needs nothing but k. Letters: M members, B batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from raybc.data.plan.sampler import IndexSampler
from raybc.data.windows import Windows
from raybc.policies.base import Draws, DrawShape, Loss
from raybc.train.dtensor import gather_full, replicate
from raybc.types import Batch

#: Steps whose random numbers are drawn together.
STEPS_PER_BLOCK = 64

#: (batch, draws) -> loss of each example; a policy, or what wraps it (compiled, distributed).
LossOf = Callable[[Batch, Draws], Loss]


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became nan or inf, of the members `members`; no parameter was changed by that step."""

    def __init__(self, message: str, members: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.members = tuple(members)


def stream_seed(seed: int, *names: object) -> int:
    """A seed for one named stream of random numbers, 0 <= seed < 2**63."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device, seed: int, *names: object) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *names))


@dataclass(frozen=True)
class StepDraws:
    """What is random in one step."""

    indices_MB: Tensor
    """int64, which windows are drawn."""
    draws: Draws
    """What the learner asks for, each (M, B, ...)."""

    def part(self, index: int, count: int) -> StepDraws:
        """Part `index` of `count` of the batch: some of its examples with their draws."""
        batch = self.indices_MB.shape[1]
        rows = slice(batch * index // count, batch * (index + 1) // count)
        return StepDraws(self.indices_MB[:, rows], {name: value[:, rows] for name, value in self.draws.items()})


class DrawSource:
    """What each member draws at each step: windows, and what its learner asks for.

    num_starts: gives the number of windows there are at a step. sampler: draws windows by a sampling plan.
    """

    def __init__(
        self,
        shapes: Mapping[str, DrawShape],
        num_starts: Callable[[int], int],
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device,
        sampler: IndexSampler | None = None,
    ):
        self._sampler, self._shapes = sampler, dict(shapes)
        self._num_starts, self._batch_size, self._seeds, self._device = num_starts, batch_size, seeds, device
        self._block = -1
        self._drawn: dict[str, Tensor] = {}

    def at(self, step: int) -> StepDraws:
        """Of step `step` (from 0)."""
        if self._block != step // STEPS_PER_BLOCK:
            self._block = step // STEPS_PER_BLOCK
            members = [self._draw(seed) for seed in self._seeds]
            self._drawn = {name: torch.stack([m[name] for m in members], 1) for name in members[0]}
        row = step % STEPS_PER_BLOCK
        return StepDraws(self._drawn[""][row], {name: self._drawn[name][row] for name in self._shapes})

    def _draw(self, seed: int) -> dict[str, Tensor]:
        """Name -> (steps of the block, B, ...) of one member; windows under the empty name."""
        g = generator(self._device, seed, "draws", self._block)
        first, size = self._block * STEPS_PER_BLOCK, self._batch_size
        counts = map(self._num_starts, range(first, first + STEPS_PER_BLOCK))
        indices = torch.cat(
            [
                torch.randint(count, (len(list(steps)), size), generator=g, device=self._device)
                for count, steps in itertools.groupby(counts)
            ]
        )
        if self._sampler is not None:  # after them, so that the other draws are those of the seed without a plan
            drawn = self._sampler.at_block(seed, self._block, STEPS_PER_BLOCK, size)
            indices = torch.from_numpy(drawn).to(self._device)
        shapes = self._shapes.items()
        return {"": indices} | {name: s.sample((STEPS_PER_BLOCK, size), g, self._device) for name, s in shapes}


def clip_by_member(parameters: Sequence[Tensor], max_norm_M: Tensor | None) -> Tensor:
    """Scale each member's gradient to at most its `max_norm` (None, inf: as it is); returns the norm it had, (M,): the
    2-norm over all of its parameters."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = [gather_full(torch.linalg.vector_norm(g, dim=tuple(range(1, g.ndim)))) for g in grads]
    norm_M = torch.stack(norms).norm(dim=0)
    if max_norm_M is not None:
        factor_M = (max_norm_M / norm_M.clamp_min(1e-12)).clamp_max(1.0)
        for g in grads:
            g.mul_(replicate(factor_M.view(-1, *[1] * (g.ndim - 1)), g))
    return norm_M


def backward(
    loss_of: LossOf,
    windows: Windows,
    drawn: StepDraws,
    batch_size: float,
    parts: int = 1,
    no_sync: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    wants_metrics: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the gradient of every member's loss, the sum over its examples / `batch_size`, to `.grad`.

    Returns the loss of each member, (M,), detached, and with `wants_metrics` the metrics in the same way. The losses
    are summed over members, and no parameter is shared, so each member's gradient is its own. parts: the batch is
    computed in this many pieces, which needs less memory and gives the same gradient but for rounding; all but the
    last within a block of `no_sync`.
    """
    losses: list[Tensor] = []
    metrics: list[dict[str, Tensor]] = []
    for index in range(parts):
        piece = drawn.part(index, parts) if parts > 1 else drawn
        with no_sync() if index < parts - 1 else contextlib.nullcontext():
            loss = loss_of(windows.gather(piece.indices_MB), piece.draws)
            loss_M = loss.value_MB.sum(1) / batch_size
            loss_M.sum().backward()
        losses.append(loss_M.detach())
        if wants_metrics:
            metrics.append({name: value.detach().sum(1) / batch_size for name, value in loss.metrics.items()})
    total = losses[0] if parts == 1 else torch.stack(losses).sum(0)
    names = metrics[0] if metrics else ()
    return total, {name: torch.stack([m[name] for m in metrics]).sum(0) for name in names}
