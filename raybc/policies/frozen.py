"""Layers whose weights do not change any more, laid out for acting on a CPU.

Their results do not depend on the number of rows: a row of a batch of one has the same bits as in a batch of many, so
that an `Agent` need not pad batches. Letters: N rows, I input features, O output features, B batch, L length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raybc.policies import activations

#: Weights with at least this many entries are laid out for oneDNN; for smaller ones MKL takes less time.
ONEDNN_FROM = 1 << 17
#: oneDNN and MKL have other kernels for fewer rows, with other last bits. MKL also has one for few columns (5, 6, 7, 9,
#: 10, 11), in which a row depends on its position, so the number of columns is padded to a multiple of `COLUMNS`.
ONEDNN_ROWS, MKL_ROWS, COLUMNS = 2, 4, 16
#: The number of rows that oneDNN's layout is made for.
USUAL_ROWS = 16
#: Times whose results are kept.
MOST_TIMES = 256


def is_acting() -> bool:
    """Whether frozen layers may be used: without gradients, compiler and exporter."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())


def can_freeze(module: nn.Module) -> bool:
    """Whether a pack has one member, on a CPU, in float32."""
    parameters = list(module.parameters())
    return all(p.shape[0] == 1 and p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters)


class FrozenLinear:
    """One linear layer, with or without GELU after it: (N, I) -> (N, O)."""

    @torch.no_grad()
    def __init__(self, weights_IO: Tensor, bias_O: Tensor | None, onednn: bool = True) -> None:
        """onednn: whether oneDNN may be used."""
        self.outputs = weights_IO.shape[1]
        self.onednn = onednn and weights_IO.numel() >= ONEDNN_FROM and torch.backends.mkldnn.is_available()
        if self.onednn:
            # The operators that PyTorch's compiler uses for frozen linear layers.
            self.weights = torch.ops.mkldnn._reorder_linear_weight(weights_IO.T.contiguous(), USUAL_ROWS)
            self.bias = bias_O
            return
        missing = -self.outputs % COLUMNS
        self.weights = functional.pad(weights_IO, (0, missing)).T.contiguous()
        self.bias = functional.pad(weights_IO.new_zeros(self.outputs) if bias_O is None else bias_O, (0, missing))

    def __call__(self, x_NI: Tensor, gelu: bool = False) -> Tensor:
        rows = x_NI.shape[0]
        if rows < (ONEDNN_ROWS if self.onednn else MKL_ROWS):
            return self(functional.pad(x_NI, (0, 0, 0, MKL_ROWS - rows)), gelu)[:rows]
        if self.onednn:
            after, form = ("gelu", "tanh") if gelu else ("none", "")
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self.weights, self.bias, after, [], form)
            return out
        out = functional.linear(x_NI, self.weights, self.bias)
        out = out if out.shape[1] == self.outputs else out[:, : self.outputs]
        return activations.gelu(out) if gelu else out


class FrozenConv1d:
    """One convolution along L with channels last, as a linear layer of windows of K steps.

    Padding is a part of the input: (B, L + 2 padding, I) -> (B * L', O).
    """

    @torch.no_grad()
    def __init__(self, weights_OKI: Tensor, bias_O: Tensor, stride: int, padding: int) -> None:
        self.kernel, self.stride, self.padding = weights_OKI.shape[1], stride, padding
        self.linear = FrozenLinear(weights_OKI.flatten(1).T, bias_O)

    def __call__(self, padded_BLI: Tensor) -> Tensor:
        batch, length, inputs = padded_BLI.shape
        outputs, window = (length - self.kernel) // self.stride + 1, self.kernel * inputs
        if batch == 1:  # windows overlap in memory, so they need no copy
            return self.linear(padded_BLI.as_strided((outputs, window), (self.stride * inputs, 1)))
        strides = (length * inputs, self.stride * inputs, 1)
        return self.linear(padded_BLI.as_strided((batch, outputs, window), strides).reshape(-1, window))


class Times:
    """Results of a function of the time alone, kept for times that all rows share."""

    def __init__(self) -> None:
        self._kept: dict[float, Any] = {}

    def __call__(self, t_MB1: Tensor, function: Callable[[Tensor], Any]) -> Any:
        """function(t_MB1)."""
        if t_MB1.numel() != 1 or t_MB1.device.type != "cpu" or not is_acting():
            return function(t_MB1)
        time = float(t_MB1)
        found = self._kept.get(time)
        if found is None:
            found = function(t_MB1)
            if len(self._kept) < MOST_TIMES:
                self._kept[time] = found
        return found
