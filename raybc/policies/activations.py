"""Activation functions that PyTorch computes slowly on a CPU."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

#: 2 c of the tanh form of GELU, c = sqrt(2 / pi), and that times its cubic coefficient.
_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


def gelu(x: Tensor) -> Tensor:
    """x Phi(x) in its tanh form (Hendrycks and Gimpel 2016); also x sigmoid(2 c (x + 0.044715 x^3)), c = sqrt(2 / pi).

    PyTorch uses the first form. On a CPU its tanh is slow, and the second form takes about half the time. Under
    torch.compile this is PyTorch's own function, which the compiler fuses.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.gelu(x, approximate="tanh")
    if torch.is_grad_enabled():
        return _SigmoidGelu.apply(x)
    return _gate(x).mul_(x)


def _gate(x: Tensor) -> Tensor:
    inner = torch.addcmul(constant(_LINEAR, x.dtype), x, x, value=_CUBIC)
    return inner.mul_(x).sigmoid_()


class _SigmoidGelu(torch.autograd.Function):
    """y = x s, s = sigmoid(a x + b x^3);  dy/dx = s (1 + x (a + 3 b x^2) (1 - s))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = _gate(x)
        ctx.save_for_backward(x, gate)
        return gate * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, gate = ctx.saved_tensors
        slope = torch.addcmul(constant(_LINEAR, x.dtype), x, x, value=3 * _CUBIC).mul_(x)
        return slope.addcmul_(slope, gate, value=-1).add_(1).mul_(gate).mul_(grad)


def on_eager_cpu(x: Tensor) -> bool:
    """Whether to use hand-written CPU code instead of PyTorch's operators, which compilers and exporters need."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def mish(x: Tensor) -> Tensor:
    """x tanh(log(1 + e^x)), Misra 2019; on a CPU without gradients as x - 2 x / ((1 + e^x)^2 + 1), which takes a third
    of the time for many entries. Where e^x is infinite, this is x."""
    if on_eager_cpu(x) and not torch.is_grad_enabled():
        power = x.exp()
        return torch.addcdiv(x, x, torch.addcmul(constant(2.0, x.dtype), power, power + 2), value=-2)
    return nn.functional.mish(x)


@functools.cache
@torch.inference_mode(False)
def constant(value: float, dtype: torch.dtype) -> Tensor:
    """A scalar on the CPU, made once."""
    return torch.full((), value, dtype=dtype)
