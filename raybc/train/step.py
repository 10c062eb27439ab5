"""One gradient step of a pack, and where its randomness comes from.

Member m's initial weights, data order, noise and times depend on its own seed alone, never on the size of the pack.
Random numbers are drawn in blocks of steps from a generator seeded with (seed, block): the state of training has no
generator in it, so resuming at step k needs nothing but k. Letters: M members, B batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from raybc.data.windows import Windows
from raybc.policies.flow import FlowPolicy

BLOCK = 64


class NonFiniteLoss(RuntimeError):
    """The loss became nan or inf; no parameter was changed by that step."""


def stream_seed(seed: int, *names: object) -> int:
    """A seed for one named stream of random numbers, 0 <= seed < 2**63."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device, seed: int, *names: object) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *names))


class Draws:
    """Which windows, noise and times each member sees at each step."""

    def __init__(
        self, policy: FlowPolicy, num_starts: int, batch_size: int, seeds: Sequence[int], device: torch.device
    ):
        self._sizes = policy.draw_size(batch_size)
        self._num_starts, self._batch_size, self._seeds, self._device = num_starts, batch_size, seeds, device
        self._block = -1
        self._numbers: tuple[Tensor, Tensor, Tensor] | None = None

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
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

    def _draw(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        g = generator(self._device, seed, "draws", self._block)
        normal, uniform = self._sizes
        return (
            torch.randint(self._num_starts, (BLOCK, self._batch_size), generator=g, device=self._device),
            torch.randn(BLOCK, normal, generator=g, device=self._device),
            torch.rand(BLOCK, uniform, generator=g, device=self._device),
        )


def clip_by_member(parameters: Sequence[Tensor], max_norm: float) -> None:
    """Scale each member's gradient to at most `max_norm` (2-norm over all of its parameters)."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm_M = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    factor_M = (max_norm / norm_M.clamp_min(1e-12)).clamp_max(1.0)
    for g in grads:
        g.mul_(factor_M.view(-1, *[1] * (g.ndim - 1)))


def train_step(
    policy: FlowPolicy,
    optimizer: torch.optim.Optimizer,
    windows: Windows,
    numbers: tuple[Tensor, Tensor, Tensor],
    grad_clip: float,
) -> Tensor:
    """One step of every member; returns the loss of each, (M,), detached.

    The losses are summed over members, and no parameter is shared, so each member's gradient is its own.
    Raises `NonFiniteLoss` before the optimiser has touched anything.
    """
    picks, noise, time = numbers
    optimizer.zero_grad(set_to_none=True)
    loss_M = policy.loss(windows.gather(picks), noise, time).mean(1)
    if not bool(torch.isfinite(loss_M).all()):
        bad = torch.nonzero(~torch.isfinite(loss_M)).flatten().tolist()
        raise NonFiniteLoss(f"loss of member(s) {bad} is not finite: {loss_M.tolist()}")
    loss_M.sum().backward()
    if grad_clip > 0:
        clip_by_member(list(policy.parameters()), grad_clip)
    optimizer.step()
    return loss_M.detach()
