"""Data parallelism: several processes train one pack, each on its part of every batch.

Rank r of W computes the gradient of examples r B / W .. (r + 1) B / W of the batch that a single process would see.
The gradients are averaged, so all ranks take the same step as a single process. PyTorch does the averaging. DDP keeps
the whole policy on every rank. FSDP2 (`fully_shard`) shards each parameter and its optimiser state over the ranks, for
policies that do not fit on one device. Whatever starts the processes (Ray Train, torchrun) creates the process group:
nccl on GPUs, gloo on CPUs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.train.choices import Parallel
from raybc.train.step import StepDraws
from raybc.types import UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import Shard


@dataclass(frozen=True)
class WorkerConfig:
    """How many training processes to use, and how they split the work."""

    min_workers: int
    """Training starts as soon as this many workers have resources."""
    max_workers: int
    """The group grows to this many workers when resources become free."""
    use_gpu: bool
    """Reserve one GPU for each worker."""
    parallel: Parallel
    """ddp: the whole policy on every rank. fsdp: parameters sharded over the ranks."""

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change during training."""
        return self.min_workers < self.max_workers

    def check(self, members: Sequence[RunConfig]) -> None:
        """Raise `UserError` if `members` cannot be trained by this many workers.

        The check at `max_workers` also covers smaller groups.
        """
        if self.max_workers < 1:
            raise UserError(f"--num_workers: expected at least 1, got {self.max_workers}")
        if not 1 <= self.min_workers <= self.max_workers:
            raise UserError(
                f"--min_workers: expected 1 to num_workers = {self.max_workers}, or 0 for as many, "
                f"got {self.min_workers}"
            )
        Ranks(0, self.max_workers, self.parallel).check(members)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process and the size of its group."""

    rank: int = 0
    """0 .. world - 1."""
    world: int = 1
    """Number of processes; 1: no process group."""
    parallel: Parallel = "ddp"
    """See `WorkerConfig.parallel`."""
    wrap_one: bool = False
    """Also wrap the policy in a group of one, which needs a process group then, to check and time the wrappers."""

    @classmethod
    def here(cls, parallel: Parallel = "ddp") -> Ranks:
        """The rank in the current process group, or `Ranks()` if there is none."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), parallel)
        return cls()

    @property
    def wraps(self) -> bool:
        """Whether the policy is wrapped."""
        return self.world > 1 or self.wrap_one

    @property
    def sharded(self) -> bool:
        """Whether parameters are sharded. Gathering a full parameter is then a collective call on all ranks."""
        return self.wraps and self.parallel == "fsdp"

    def check(self, members: Sequence[RunConfig]) -> None:
        """Raise `UserError` for a run that cannot be split over the ranks.

        Every rank needs an example. Frozen parameters cannot start to learn later, because DDP and FSDP fix the set of
        trained parameters at the start. FSDP trains one member only: the slices of a member may be on any rank.
        """
        config = members[0]
        if self.world == 1:
            return
        if config.batch_size < self.world * config.accumulate:
            raise UserError(
                f"batch_size: expected at least num_workers x accumulate = {self.world} x {config.accumulate}, "
                f"got {config.batch_size}"
            )
        if not config.critic.is_none:
            raise UserError(f"critic: expected none with several training processes, got {config.critic.kind}")
        if config.freeze and config.freeze_steps >= 0:
            raise UserError(f"freeze_steps: expected -1 with several workers, got {config.freeze_steps}")
        if config.freeze_epochs:
            raise UserError(f"freeze_epochs: expected 0 with several workers, got {config.freeze_epochs}")
        if self.parallel == "fsdp" and len(members) > 1:
            raise UserError(
                f"parallel: expected ddp for {len(members)} members (a pack), got fsdp: it is for single policies that "
                "do not fit a device"
            )

    def share(self, drawn: StepDraws) -> StepDraws:
        """This rank's part of a batch."""
        return drawn if self.world == 1 else drawn.part(self.rank, self.world)

    def wrap(self, policy: nn.Module, device: torch.device) -> nn.Module:
        """`policy` wrapped so that `backward` averages gradients over the ranks.

        With FSDP each rank keeps its shard of the gradients, and the parameters of `policy` are replaced.
        """
        assert self.wraps
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
        """Shard along the last dimension that divides evenly, or along the member axis if none does."""
        from torch.distributed.tensor import Shard

        even = [d for d in range(1, parameter.ndim) if parameter.shape[d] % self.world == 0]
        return Shard(even[-1] if even else 0)

    @contextlib.contextmanager
    def no_sync(self, wrapped: nn.Module) -> Iterator[None]:
        """Accumulate gradients locally in this block; the next backward pass outside of it averages them."""
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            with wrapped.no_sync():
                yield
        elif self.sharded:
            wrapped.set_requires_gradient_sync(False)  # type: ignore[operator]  # FSDPModule has it
            yield
            wrapped.set_requires_gradient_sync(True)  # type: ignore[operator]
        else:
            yield

    def mean(self, values_M: Tensor) -> Tensor:
        """The mean over ranks, (M,); the same on every rank."""
        if self.world > 1:
            values_M = values_M.clone()
            torch.distributed.all_reduce(values_M)
            values_M /= self.world
        return values_M
