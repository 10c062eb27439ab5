"""Several processes that train one pack together, each on its part of every batch (data parallelism).

Rank r of W computes the gradient of examples r B / W .. (r + 1) B / W of the very batch that one process would see;
PyTorch's DistributedDataParallel averages the gradients, so all ranks take the same step. The process group is made by
who starts the processes (Ray Train, torchrun): nccl on GPUs, gloo on CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.train.step import LossOf, Numbers, part
from raybc.types import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Those of the process group that this process is in; alone without one."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return cls()

    def check(self, config: RunConfig) -> None:
        """Refuse what cannot be shared: batches in unequal parts (they would weigh the same), and parameters that begin
        to learn later (what is averaged is settled at the start)."""
        if self.world == 1:
            return
        if config.batch_size % (self.world * config.accumulate):
            raise UserError(
                f"batch_size: expected a multiple of num_workers x accumulate = {self.world} x {config.accumulate}, "
                f"got {config.batch_size}"
            )
        if config.freeze and config.freeze_steps >= 0:
            raise UserError(f"freeze_steps: expected -1 with several workers, got {config.freeze_steps}")

    def share(self, numbers: Numbers) -> Numbers:
        """This rank's part of a batch."""
        return numbers if self.world == 1 else part(numbers, self.rank, self.world)

    def wrap(self, policy: nn.Module, device: torch.device) -> LossOf:
        """What computes losses so that `backward` leaves the gradient of the whole batch on every rank."""
        assert self.world > 1
        ids = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(policy, device_ids=ids, gradient_as_bucket_view=True)

    def mean(self, values_M: Tensor) -> Tensor:
        """The mean over ranks, the same on each."""
        if self.world > 1:
            values_M = values_M.clone()
            torch.distributed.all_reduce(values_M)
            values_M /= self.world
        return values_M
