"""How the loss of a pack is computed: on which device, compiled or eager, in float32 or bfloat16."""

from __future__ import annotations

import torch

from raybc.config import RunConfig
from raybc.policies.base import Draws, Loss
from raybc.train.step import LossOf
from raybc.types import Batch, UserError


def compile_mode(config: RunConfig, device: torch.device) -> str:
    """The mode of torch.compile; off: eager. auto is reduce-overhead on a GPU and off on a CPU."""
    if config.compile == "auto":
        return "reduce-overhead" if device.type == "cuda" else "off"
    return config.compile


def with_arithmetic(loss_of: LossOf, config: RunConfig, device: torch.device) -> LossOf:
    """`loss_of`, compiled and with matrix products in bfloat16 as the options say."""
    mode = compile_mode(config, device)
    if mode != "off":
        loss_of = torch.compile(loss_of, mode=mode, dynamic=False)
    if config.precision == "fp32":
        return loss_of

    def in_half(batch: Batch, draws: Draws) -> Loss:
        with torch.autocast(device.type, torch.bfloat16):
            return loss_of(batch, draws)

    return in_half


def pick_device(name: str) -> torch.device:
    """The PyTorch device `name`; auto: cuda if available. Raises `UserError` if the device is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: expected cpu, cuda, cuda:N or auto, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):  # sums of losses are float64, which Apple's GPUs (mps) do not have
        raise UserError(f"device: expected cpu, cuda, cuda:N or auto, got {name!r}, which is not supported")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {name!r} was requested, but this PyTorch sees no CUDA device; use --device=cpu")
    return device
