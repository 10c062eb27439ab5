"""One gradient step of a pack, and where its randomness comes from.

Member m's initial weights, data order, noise and times depend on its own seed alone, never on the size of the pack.
Random numbers are drawn in blocks of steps from a generator seeded with (seed, block): the state of training has no
generator in it, so resuming at step k needs nothing but k. Letters: M members, B batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from raybc.data.plan.sampler import IndexSampler
from raybc.data.windows import Windows
from raybc.policies.flow import FlowPolicy
from raybc.train.dtensor import gather_full, replicate
from raybc.types import Batch

BLOCK = 64

#: (batch, noise, time) -> loss of each example, (M, B); a policy, or what wraps it (compiled, distributed).
LossOf = Callable[[Batch, Tensor, Tensor], Tensor]
Numbers = tuple[Tensor, Tensor, Tensor]


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


class Draws:
    """Which windows, noise and times each member sees at each step.

    num_starts: how many windows there are at a step.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        num_starts: Callable[[int], int],
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device,
        picks: IndexSampler | None = None,
    ):
        self._picks = picks
        self._sizes = policy.draw_size(batch_size)
        self._num_starts, self._batch_size, self._seeds, self._device = num_starts, batch_size, seeds, device
        self._block = -1
        self._numbers: Numbers | None = None

    def at(self, step: int) -> Numbers:
        """(picks int64 (M, B), noise (M, normal size), time (M, uniform size)) of step `step` (from 0)."""
        if self._block != step // BLOCK or self._numbers is None:
            self._block = step // BLOCK
            members = [self._draw(seed) for seed in self._seeds]
            self._numbers = (
                torch.stack([m[0] for m in members], 1),
                torch.stack([m[1] for m in members], 1),
                torch.stack([m[2] for m in members], 1),
            )
        picks, noise, time = self._numbers
        row = step % BLOCK
        return picks[row], noise[row], time[row]

    def _pick(self, num_starts: int, steps: int, g: torch.Generator) -> Tensor:
        return torch.randint(num_starts, (steps, self._batch_size), generator=g, device=self._device)

    def _draw(self, seed: int) -> Numbers:
        g = generator(self._device, seed, "draws", self._block)
        normal, uniform = self._sizes
        counts = map(self._num_starts, range(self._block * BLOCK, (self._block + 1) * BLOCK))
        picks = torch.cat([self._pick(n, len(list(steps)), g) for n, steps in itertools.groupby(counts)])
        if self._picks is not None:  # after them, so that noise and times are those of the same seed without a plan
            picks = torch.from_numpy(self._picks.at_block(seed, self._block, BLOCK, self._batch_size)).to(self._device)
        return (
            picks,
            torch.randn(BLOCK, normal, generator=g, device=self._device),
            torch.rand(BLOCK, uniform, generator=g, device=self._device),
        )


def part(numbers: Numbers, index: int, count: int) -> Numbers:
    """Part `index` of `count` of a batch: the same examples with the same noise and times."""
    picks, noise, time = numbers
    members, batch = picks.shape
    rows = slice(batch * index // count, batch * (index + 1) // count)
    return picks[:, rows], noise.view(members, batch, -1)[:, rows].flatten(1), time[:, rows]


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
    numbers: Numbers,
    batch_size: float,
    parts: int = 1,
    held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Tensor:
    """Add the gradient of every member's loss, the sum over its examples / `batch_size`, to `.grad`; returns the loss
    of each, (M,), detached.

    The losses are summed over members, and no parameter is shared, so each member's gradient is its own. `parts`: the
    batch is computed in so many pieces, which needs less memory and gives the same gradient but for rounding; all but
    the last in a block `held`.
    """
    losses = []
    for index in range(parts):
        picks, noise, time = part(numbers, index, parts) if parts > 1 else numbers
        with held() if index < parts - 1 else contextlib.nullcontext():
            loss_M = loss_of(windows.gather(picks), noise, time).sum(1) / batch_size
            loss_M.sum().backward()
        losses.append(loss_M.detach())
    return losses[0] if parts == 1 else torch.stack(losses).sum(0)
