"""Several processes that train one pack together, each on its part of every batch (data parallelism).

Rank r of W computes the gradient of examples r B / W .. (r + 1) B / W of the very batch that one process would see, and
the gradients are averaged, so all ranks take the step that one process would take. PyTorch does the averaging: DDP
keeps the whole policy on every rank, FSDP2 (`fully_shard`) a part of each parameter and of what the optimiser keeps of
it, for policies that do not fit a device. The process group is made by who starts the processes (Ray Train, torchrun):
nccl on GPUs, gloo on CPUs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.train.step import StepDraws
from raybc.types import UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import Shard

Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class WorkerConfig:
    """How many training processes there may be, and how they share."""

    least: int
    most: int
    use_gpu: bool
    parallel: Parallel

    @property
    def elastic(self) -> bool:
        """Their number may change while they train."""
        return self.least < self.most

    def check(self, members: Sequence[RunConfig]) -> None:
        """Raises `UserError` for what they cannot share; fewer can share what the most can."""
        if self.most < 1:
            raise UserError(f"--num_workers: expected at least 1, got {self.most}")
        if not 1 <= self.least <= self.most:
            raise UserError(
                f"--min_workers: expected 1 to num_workers = {self.most}, or 0 for as many, got {self.least}"
            )
        Ranks(0, self.most, self.parallel).check(members)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    parallel: Parallel = "ddp"

    @classmethod
    def here(cls, parallel: Parallel = "ddp") -> Ranks:
        """Those of the process group that this process is in; alone without one."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), parallel)
        return cls()

    @property
    def sharded(self) -> bool:
        """Parameters are in parts: what reads them whole has to be called on every rank."""
        return self.world > 1 and self.parallel == "fsdp"

    def check(self, members: Sequence[RunConfig]) -> None:
        """Refuse what cannot be shared: a rank without an example, parameters that begin to learn later (what is
        averaged is settled at the start), and with FSDP members with rates of their own (their slices of a parameter
        may be on any rank)."""
        config = members[0]
        if self.world == 1:
            return
        if config.batch_size < self.world * config.accumulate:
            raise UserError(
                f"batch_size: expected at least num_workers x accumulate = {self.world} x {config.accumulate}, "
                f"got {config.batch_size}"
            )
        if config.freeze and config.freeze_steps >= 0:
            raise UserError(f"freeze_steps: expected -1 with several workers, got {config.freeze_steps}")
        if self.parallel == "fsdp" and len(members) > 1:
            raise UserError(
                f"parallel: expected ddp for {len(members)} members (a pack), got fsdp: it is for single policies that "
                "do not fit a device"
            )

    def share(self, drawn: StepDraws) -> StepDraws:
        """This rank's part of a batch."""
        return drawn if self.world == 1 else drawn.part(self.rank, self.world)

    def wrap(self, policy: nn.Module, device: torch.device) -> nn.Module:
        """What computes losses so that their gradient, averaged over ranks, is on every rank (FSDP: each its part; the
        parameters of `policy` are replaced)."""
        assert self.world > 1
        if self.parallel == "ddp":
            ids = [device] if device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(policy, device_ids=ids, gradient_as_bucket_view=True)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.world,))
        for layer in policy.modules():
            if getattr(layer, "is_fsdp_unit", False):
                fully_shard(layer, mesh=mesh, shard_placement_fn=self._cut)
        fully_shard(policy, mesh=mesh, shard_placement_fn=self._cut)
        return policy

    def _cut(self, parameter: nn.Parameter) -> Shard:
        """The last dimension that divides evenly; the member axis, which need not, where none does."""
        from torch.distributed.tensor import Shard

        even = [d for d in range(1, parameter.ndim) if parameter.shape[d] % self.world == 0]
        return Shard(even[-1] if even else 0)

    @contextlib.contextmanager
    def no_sync(self, wrapped: nn.Module) -> Iterator[None]:
        """Gradients of this block stay on their rank, to be averaged with those that are added to them later."""
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            with wrapped.no_sync():
                yield
        elif self.sharded:
            wrapped.set_requires_gradient_sync(False)  # type: ignore[operator]  # of an FSDPModule
            yield
            wrapped.set_requires_gradient_sync(True)  # type: ignore[operator]
        else:
            yield

    def mean(self, values_M: Tensor) -> Tensor:
        """The mean over ranks, the same on each."""
        if self.world > 1:
            values_M = values_M.clone()
            torch.distributed.all_reduce(values_M)
            values_M /= self.world
        return values_M
