"""Tensors that FSDP2 keeps in parts on several ranks (DTensor), beside ordinary ones, with which these do nothing.

PyTorch's module for them takes a second to import, so it is imported where there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def _is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    return hasattr(tensor, "device_mesh")


def gather_full(tensor: Tensor) -> Tensor:
    """All of a tensor that may be in parts on several ranks (then every rank has to ask)."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def shard_like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor on the device of `model`, cut as that is."""
    if not _is_sharded(model):
        return value.to(model.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)


def replicate(value: Tensor, model: Tensor) -> Tensor:
    """A tensor that every rank has whole, for arithmetic with one that may be cut."""
    if not _is_sharded(model):
        return value
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(value, model.device_mesh, [Replicate()] * model.device_mesh.ndim, run_check=False)
