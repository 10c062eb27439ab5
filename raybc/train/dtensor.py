"""Helpers for tensors that FSDP2 shards over ranks (DTensor). They leave ordinary tensors unchanged.

Importing `torch.distributed.tensor` takes a second, so it is imported only if there is a DTensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def _is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    return hasattr(tensor, "device_mesh")


def gather_full(tensor: Tensor) -> Tensor:
    """The full tensor. For a sharded tensor this is a collective call on all ranks."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def shard_like(value: Tensor, model: Tensor) -> Tensor:
    """A full tensor, moved to the device of `model` and sharded like it."""
    if not _is_sharded(model):
        return value.to(model.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)


def replicate(value: Tensor, model: Tensor) -> Tensor:
    """A full tensor as a replicated DTensor if `model` is sharded, for arithmetic with `model`."""
    if not _is_sharded(model):
        return value
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(value, model.device_mesh, [Replicate()] * model.device_mesh.ndim, run_check=False)
