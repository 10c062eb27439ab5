"""One gradient step of a pack, and its random draws.

The initial weights, data order and draws of member m depend only on its own seed, not on the size of the pack. Random
numbers are drawn for blocks of steps from a generator seeded with (seed, block). A training state therefore contains no
generator state: the step is enough to resume. Letters: M members, B batch.
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
from raybc.policies.base import Draws, DrawShape, Loss
from raybc.train.dtensor import gather_full, replicate
from raybc.types import Batch

#: Steps whose random numbers are drawn together.
STEPS_PER_BLOCK = 64
#: Steps whose random numbers are stacked over members together, a divisor of the above: few enough to stay in caches.
STEPS_PER_PIECE = 8
#: Losses and norms below this are far from overflow when they are squared and added in float32.
MODERATE = 1e15

#: (batch, draws) -> loss of each example; a policy, possibly compiled or wrapped by DDP or FSDP.
LossOf = Callable[[Batch, Draws], Loss]


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient of `members` (indices) is nan or inf. That step changed no parameter."""

    def __init__(self, message: str, members: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.members = tuple(members)


def stream_seed(seed: int, *names: object) -> int:
    """A seed for one named stream of random numbers, 0 <= seed < 2**63."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device, seed: int, *names: object) -> torch.Generator:
    """A generator on `device`, seeded with `stream_seed`."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *names))


@dataclass(frozen=True)
class StepDraws:
    """The random draws of one step."""

    indices_MB: Tensor
    """int64, indices of the drawn windows."""
    draws: Draws
    """Name -> random numbers for the loss, float32 (M, B, ...)."""
    images: Mapping[str, Tensor] | None = None
    """Images of the windows, uint8 (M, B, T, height, width, channels), where they are gathered already."""

    def part(self, index: int, count: int) -> StepDraws:
        """Part `index` of the batch, cut into `count` parts."""
        batch = self.indices_MB.shape[1]
        rows = slice(batch * index // count, batch * (index + 1) // count)
        images = None if self.images is None else {name: image[:, rows] for name, image in self.images.items()}
        return StepDraws(self.indices_MB[:, rows], {name: value[:, rows] for name, value in self.draws.items()}, images)


class DrawSource:
    """The random draws of each member at each step: windows, and random numbers for the loss."""

    def __init__(
        self,
        shapes: Mapping[str, DrawShape],
        num_starts: Callable[[int, int], int],
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device,
        sampler: IndexSampler | None = None,
    ):
        """
        Args:
            shapes: the random numbers that the loss needs.
            num_starts: step, member (index) -> number of windows to draw from.
            batch_size: B.
            seeds: the seed of each member.
            device: where to draw.
            sampler: draws windows by a sampling plan; None: uniformly with replacement.
        """
        self._sampler = sampler
        self._shapes = {name: shape for name, shape in shapes.items() if not shape.by_step}
        self._by_step = {name: shape for name, shape in shapes.items() if shape.by_step}
        self._num_starts, self._batch_size, self._seeds, self._device = num_starts, batch_size, seeds, device
        self._block = self._piece = -1
        self._members: list[dict[str, Tensor]] = []
        self._drawn: dict[str, Tensor] = {}

    def at(self, step: int) -> StepDraws:
        """The draws of step `step` (from 0)."""
        if self._block != step // STEPS_PER_BLOCK:
            self._block, self._piece = step // STEPS_PER_BLOCK, -1
            self._members = [self._draw(m, seed) for m, seed in enumerate(self._seeds)]
        if self._piece != step // STEPS_PER_PIECE:
            self._piece = step // STEPS_PER_PIECE
            first = self._piece * STEPS_PER_PIECE % STEPS_PER_BLOCK
            rows = slice(first, first + STEPS_PER_PIECE)
            self._drawn = {name: torch.stack([m[name][rows] for m in self._members], 1) for name in self._members[0]}
        row = step % STEPS_PER_PIECE
        drawn = {name: self._drawn[name][row] for name in self._drawn if name}
        return StepDraws(self._drawn[""][row], drawn | {n: self._of_step(n, step) for n in self._by_step})

    def _of_step(self, name: str, step: int) -> Tensor:
        """Draws with `DrawShape.by_step`, (M, B, ...)."""
        shape, device = self._by_step[name], self._device
        drawn = [
            shape.sample((self._batch_size,), generator(device, seed, "draws", name, step), device)
            for seed in self._seeds
        ]
        return torch.stack(drawn)

    def _draw(self, member: int, seed: int) -> dict[str, Tensor]:
        """Draws of one member for a block: name -> (STEPS_PER_BLOCK, B, ...); windows under the empty name."""
        g = generator(self._device, seed, "draws", self._block)
        first, size = self._block * STEPS_PER_BLOCK, self._batch_size
        counts = (self._num_starts(step, member) for step in range(first, first + STEPS_PER_BLOCK))
        indices = torch.cat(
            [
                torch.randint(count, (len(list(steps)), size), generator=g, device=self._device)
                for count, steps in itertools.groupby(counts)
            ]
        )
        if (
            self._sampler is not None
        ):  # drawn after the indices above, so that the other draws do not depend on the plan
            drawn = self._sampler.at_block(seed, self._block, STEPS_PER_BLOCK, size)
            indices = torch.from_numpy(drawn).to(self._device)
        shapes = self._shapes.items()
        return {"": indices} | {name: s.sample((STEPS_PER_BLOCK, size), g, self._device) for name, s in shapes}


def are_moderate(loss_M: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Whether losses and gradients are finite, and so far from overflow that `clip_by_member` finds finite norms.

    This costs about half as much as those norms. It reads values, so on a GPU it waits for all queued work.
    """
    norms = torch.stack(torch._foreach_norm([p.grad for p in parameters if p.grad is not None]))
    return all(abs(value) < MODERATE for value in (*loss_M.tolist(), *norms.tolist()))  # nan is not


def clip_by_member(parameters: Sequence[Tensor], max_norm_M: Tensor | None) -> Tensor:
    """Clip the gradient of each member to its maximum norm, float32 (M,); None or inf: no clipping.

    Returns the norms before clipping, (M,): the 2-norm over all parameters of a member.
    """
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
    batch_of: Callable[[StepDraws], Batch],
    drawn: StepDraws,
    batch_size: float,
    parts: int = 1,
    no_sync: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    wants_metrics: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the gradient of each member's loss to `.grad`. The loss is the sum over its examples / `batch_size`.

    The losses are summed over members for the backward pass. Members share no parameters, so each member gets its own
    gradient.

    Args:
        loss_of: the policy.
        batch_of: the batch of the draws of a piece.
        drawn: the draws of this step.
        batch_size: divisor of the sum over examples.
        parts: number of pieces in which the batch is computed; more pieces need less memory and change only rounding.
        no_sync: context manager for all pieces except the last.
        wants_metrics: also return metrics.

    Returns the detached losses, (M,), and name -> metric, (M,), which is empty without `wants_metrics`.
    """
    losses: list[Tensor] = []
    metrics: list[dict[str, Tensor]] = []
    for index in range(parts):
        piece = drawn.part(index, parts) if parts > 1 else drawn
        with no_sync() if index < parts - 1 else contextlib.nullcontext():
            loss = loss_of(batch_of(piece), piece.draws)
            loss_M = loss.value_MB.sum(1) / batch_size
            total = loss_M.sum()
            if loss.critic_MB is not None:  # it shares no parameter, so neither gradient depends on the other
                total = total + (loss.critic_MB.sum(1) / batch_size).sum()
            total.backward()
        losses.append(loss_M.detach())
        if wants_metrics:
            metrics.append({name: value.detach().sum(1) / batch_size for name, value in loss.metrics.items()})
    mean_M = losses[0] if parts == 1 else torch.stack(losses).sum(0)
    names = metrics[0] if metrics else ()
    return mean_M, {name: torch.stack([m[name] for m in metrics]).sum(0) for name in names}
