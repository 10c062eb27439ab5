"""The time of a flow or a diffusion as sinusoids."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: The sinusoids were designed for diffusion steps, about 0 .. 999; a flow time in [0, 1) is scaled to that range.
TIME_SCALE = 1000.0


def sinusoids(t_MB1: Tensor, size: int) -> Tensor:
    """Sines, then cosines of TIME_SCALE * t at size / 2 wavelengths, 2 pi to 20000 pi: (M, B, 1) -> (M, B, size).

    Vaswani et al. 2017, "Attention Is All You Need", as diffusion models use it.
    """
    half = size // 2
    steps = torch.arange(half, device=t_MB1.device, dtype=t_MB1.dtype)
    angles = TIME_SCALE * t_MB1 * torch.exp(steps * (-math.log(10_000) / (half - 1)))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
