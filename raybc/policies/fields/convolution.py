"""Layers along time for packs of members: convolutions, blocks with GroupNorm, Mish and FiLM. Time runs along L.

Chi et al. 2023, "Diffusion Policy"; Perez et al. 2018, "FiLM". Letters: M members, B batch, L
length, C channels, I input and O output channels, K kernel, G groups, P parameters of a FiLM, N rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from raybc.policies.activations import mish, on_eager_cpu
from raybc.policies.frozen import FrozenConv1d
from raybc.policies.packed import PackedLinear

#: Added to variances in GroupNorm.
EPS = 1e-5
#: Minimum number of entries per member for which fused blocks are faster on a CPU. For smaller tensors the number of
#: calls costs more than the arithmetic.
FUSED_FROM = 1 << 15
#: Maximum batch size for which one product of windows is faster than convolutions on a CPU.
WINDOWS_TO = 16


def init_uniform(parameter: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """PyTorch's default initialisation of weights and biases: U(-1, 1) / sqrt(fan_in)."""
    draw = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
    parameter.copy_((2 * draw - 1) / math.sqrt(fan_in))


class UniformLinear(PackedLinear):
    """M linear layers with PyTorch's default initialisation."""

    @torch.no_grad()
    def init_member(self, m: int, generator: torch.Generator) -> None:
        for parameter in self.parameters():
            init_uniform(parameter[m], self.weights_MIO.shape[1], generator)


class PackedPointwise(UniformLinear):
    """Convolutions of kernel 1: (M, B, L, I) -> (M, B, L, O)."""

    def forward(self, x_MBLI: Tensor) -> Tensor:
        return super().forward(x_MBLI.flatten(1, 2)).unflatten(1, (-1, int(x_MBLI.shape[2])))


def _mish_gate(s: Tensor) -> Tensor:
    """tanh(log(1 + e^x)) of s = sigmoid(x) = 1 - 1 / (1 + e^x): p / (2 - p), p = s (2 - s)."""
    p = (2 - s).mul_(s)
    return p.div_(2 - p)


def packed_conv(x_MBLI: Tensor, weights_MOKI: Tensor, bias_MO: Tensor, stride: int, padding: int) -> Tensor:
    """M convolutions along L, channels last: (M, B, L, I) -> (M, B, L', O).

    There are two implementations. PyTorch's convolution runs member by member, on images of height 1 with channels
    last, which is the fastest layout on a CPU; grouped convolutions are slower. One batched product of windows of K
    steps is faster for small batches, and on a GPU, where it keeps the number of launches independent of the pack.
    """
    members = x_MBLI.shape[0]
    by_windows = members > 1
    if on_eager_cpu(x_MBLI):  # otherwise the batch size may be symbolic
        by_windows = x_MBLI.shape[1] <= WINDOWS_TO and x_MBLI.shape[:2] != (1, 1)
    if not by_windows:
        outs_BLO = []
        for x_BLI, w_OKI, b_O in zip(x_MBLI.unbind(), weights_MOKI.unbind(), bias_MO.unbind(), strict=True):
            x_BI1L, w_OI1K = x_BLI.unsqueeze(1).permute(0, 3, 1, 2), w_OKI.unsqueeze(1).permute(0, 3, 1, 2)
            out_BO1L = nn.functional.conv2d(x_BI1L, w_OI1K, b_O, stride=(1, stride), padding=(0, padding))
            outs_BLO.append(out_BO1L.permute(0, 2, 3, 1).squeeze(1))
        return torch.stack(outs_BLO) if members > 1 else outs_BLO[0].unsqueeze(0)
    kernel = weights_MOKI.shape[2]
    windows_MBLKI = nn.functional.pad(x_MBLI, (0, 0, padding, padding)).unfold(2, kernel, stride).transpose(3, 4)
    rows_MNI = windows_MBLKI.flatten(3).flatten(1, 2)
    out_MNO = torch.baddbmm(bias_MO.unsqueeze(1), rows_MNI, weights_MOKI.flatten(2).transpose(1, 2))
    return out_MNO.unflatten(1, windows_MBLKI.shape[1:3])


class PackedConv1d(nn.Module):
    """M convolutions along L with an odd kernel and zero padding: (M, B, L, I) -> (M, B, L / stride, O)."""

    is_fsdp_unit = True

    def __init__(self, members: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.weights_MOKI = nn.Parameter(torch.empty(members, outputs, kernel, inputs))
        self.bias_MO = nn.Parameter(torch.empty(members, outputs))

    @torch.no_grad()
    def init_member(self, m: int, generator: torch.Generator) -> None:
        for parameter in (self.weights_MOKI, self.bias_MO):
            init_uniform(parameter[m], self.weights_MOKI[m, 0].numel(), generator)

    def forward(self, x_MBLI: Tensor) -> Tensor:
        return packed_conv(x_MBLI, self.weights_MOKI, self.bias_MO, self.stride, self.padding)


class PackedUpsample(nn.Module):
    """M transposed convolutions of kernel 4, stride 2, padding 1, as sub-pixel ones: (M, B, L, C) -> (M, B, 2 L, C).

    Every output sees two neighbours: y[2 i] = w3 x[i-1] + w1 x[i], y[2 i - 1] = w2 x[i-1] + w0 x[i]. So one
    convolution of kernel 2 over x with a zero at either end gives the pairs (y[2 i - 1], y[2 i]), i = 0 .. L; in a row
    they are y with one entry too many at either end (Shi et al. 2016, "Real-Time Single Image and Video
    Super-Resolution").
    """

    def __init__(self, members: int, channels: int) -> None:
        super().__init__()
        self.weights_MPOKI = nn.Parameter(torch.empty(members, 2, channels, 2, channels))  # P: odd, even; K: i - 1, i
        self.bias_MO = nn.Parameter(torch.empty(members, channels))

    @torch.no_grad()
    def init_member(self, m: int, generator: torch.Generator) -> None:
        for parameter in (self.weights_MPOKI, self.bias_MO):
            init_uniform(parameter[m], 4 * self.bias_MO.shape[1], generator)

    def forward(self, x_MBLC: Tensor) -> Tensor:
        pairs = packed_conv(x_MBLC, self.weights_MPOKI.flatten(1, 2), self.bias_MO.repeat(1, 2), stride=1, padding=1)
        return pairs.unflatten(3, (2, -1)).flatten(2, 3)[:, :, 1:-1]


class _Normed(torch.autograd.Function):
    """y = scale * mish(w * (x - mean) / std + b) + shift with mean and std over (L, C / G): (M, B, L, C) -> the same.

    The arithmetic of GroupNorm, Mish and FiLM one by one, in about a third of the time on a CPU. With s = sigmoid(z)

        mish(z) = z e,  e = tanh(log(1 + e^z)),     mish'(z) = e + s (z - z e^2).

    w, b: (M, 1, 1, C); scale, shift: (M, B, 1, C), or both None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor, scale: Tensor | None, shift: Tensor | None, *options: int
    ) -> Tensor:
        groups, with_grad = options
        size = x.shape[2] * x.shape[3] // groups
        mean = _over_groups(x.sum(2, keepdim=True), groups) / size
        square = _over_groups((x * x).sum(2, keepdim=True), groups) / size
        over_std = (square - mean * mean).clamp_(min=0).add_(EPS).rsqrt_()
        gain = over_std * w
        z = torch.addcmul(torch.addcmul(b, mean, gain, value=-1), x, gain)
        s = z.sigmoid()
        e = _mish_gate(s)
        activated = z * e
        if with_grad:  # given by the caller: within, gradients are always off
            slope = z.addcmul_(activated, e, value=-1).mul_(s).add_(e)
            ctx.save_for_backward(x, w, scale, activated, slope, mean, over_std)
            ctx.groups, ctx.size = groups, size
        return activated if scale is None or shift is None else torch.addcmul(shift, activated, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w, scale, activated, slope, mean, over_std = ctx.saved_tensors
        grad_scale = grad_shift = None
        if scale is not None:
            grad_scale, grad_shift = (grad * activated).sum(2, keepdim=True), grad.sum(2, keepdim=True)
            grad = grad * scale
        grad_z = grad * slope
        grad_b = grad_z.sum(2, keepdim=True)  # of each row so far, as is
        grad_w = ((grad_z * x).sum(2, keepdim=True) - mean * grad_b) * over_std
        # x's gradient is that of (x - mean) / std, less its mean, less (x - mean) / std times its mean product with it.
        correlation = _over_groups(grad_w * w, ctx.groups) * over_std * over_std / ctx.size
        offset = mean * correlation - _over_groups(grad_b * w, ctx.groups) * over_std / ctx.size
        grad_x = torch.addcmul(offset, x, correlation, value=-1).addcmul_(grad_z, over_std * w)
        return grad_x, grad_w.sum(1, keepdim=True), grad_b.sum(1, keepdim=True), grad_scale, grad_shift, None, None


def _over_groups(x_MB1C: Tensor, groups: int) -> Tensor:
    """Sums over the channels of each group, at each of its channels: (M, B, 1, C) -> the same."""
    x_MB1GC = x_MB1C.unflatten(3, (groups, -1))
    return x_MB1GC.sum(4, keepdim=True).expand_as(x_MB1GC).flatten(3)


class PackedBlock(nn.Module):
    """Convolution, GroupNorm, Mish and, if given one, FiLM: (M, B, L, I) -> (M, B, L, O)."""

    def __init__(self, members: int, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.conv = PackedConv1d(members, inputs, outputs, kernel)
        self.gain_M11O = nn.Parameter(torch.ones(members, 1, 1, outputs))
        self.bias_M11O = nn.Parameter(torch.zeros(members, 1, 1, outputs))

    def forward(self, x_MBLI: Tensor, scale_MB1O: Tensor | None = None, shift_MB1O: Tensor | None = None) -> Tensor:
        x = self.conv(x_MBLI)
        if on_eager_cpu(x) and x.dtype.itemsize >= 4 and x[0].numel() >= FUSED_FROM:
            affine, film, with_grad = (
                (self.gain_M11O, self.bias_M11O),
                (scale_MB1O, shift_MB1O),
                torch.is_grad_enabled(),
            )
            return _Normed.apply(x, *affine, *film, self.groups, with_grad)
        rows_NO1L = x.flatten(0, 1).unsqueeze(1).permute(0, 3, 1, 2)
        normed_NO1L = nn.functional.group_norm(rows_NO1L, self.groups, eps=EPS)
        normed_MBLO = normed_NO1L.permute(0, 2, 3, 1).squeeze(1).unflatten(0, (self.gain_M11O.shape[0], -1))
        y = mish(torch.addcmul(self.bias_M11O, normed_MBLO, self.gain_M11O))
        return y if scale_MB1O is None or shift_MB1O is None else torch.addcmul(shift_MB1O, y, scale_MB1O)


class PackedResidual(nn.Module):
    """Two convolution blocks with FiLM and a skip connection: (M, B, L, I) -> (M, B, L, O)."""

    recompute_unit = True

    def __init__(self, members: int, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.first = PackedBlock(members, inputs, outputs, kernel, groups)
        self.second = PackedBlock(members, outputs, outputs, kernel, groups)
        self.skip = PackedPointwise(members, inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x_MBLI: Tensor, film_MB1P: Tensor) -> Tensor:
        scale_MB1O, shift_MB1O = film_MB1P.chunk(2, dim=-1)
        return self.second(self.first(x_MBLI, scale_MB1O, shift_MB1O)) + self.skip(x_MBLI)


def pad(x_BLC: Tensor, padding: int) -> Tensor:
    """Zeros before and after the steps: (B, L, C) -> (B, L + 2 padding, C)."""
    return nn.functional.pad(x_BLC, (0, 0, padding, padding))


class FrozenBlock:
    """A `PackedBlock` of one member for acting: (B, L, I) -> (B, L, O)."""

    def __init__(self, block: PackedBlock) -> None:
        conv = block.conv
        self.conv = FrozenConv1d(conv.weights_MOKI[0], conv.bias_MO[0], conv.stride, conv.padding)
        self.groups = block.groups
        self.affine = block.gain_M11O.detach().flatten(), block.bias_M11O.detach().flatten()

    def __call__(self, x_BLI: Tensor) -> Tensor:
        return self.normed(pad(x_BLI, self.conv.padding))

    def normed(self, padded_BLI: Tensor) -> Tensor:
        """What follows padding."""
        batch, out_NO = padded_BLI.shape[0], self.conv(padded_BLI)
        channels, length, stride = out_NO.shape[1], out_NO.shape[0] // batch, out_NO.stride(0)
        image_BO1L = out_NO.as_strided((batch, channels, 1, length), (length * stride, 1, length * stride, stride))
        normed_BO1L = torch.group_norm(image_BO1L, self.groups, *self.affine, EPS)
        return mish(normed_BO1L.squeeze(2).transpose(1, 2))


class FrozenResidual:
    """A `PackedResidual` of one member for acting: (B, L, I) -> (B, L, O)."""

    def __init__(self, residual: PackedResidual) -> None:
        self.first, self.second = FrozenBlock(residual.first), FrozenBlock(residual.second)
        self.skip = residual.skip.freeze() if isinstance(residual.skip, PackedPointwise) else None

    def __call__(self, x_BLI: Tensor, film_B1P: Tensor) -> Tensor:
        scale_B1O, shift_B1O = film_B1P.chunk(2, dim=-1)
        first_BLO = self.first(x_BLI)
        batch, length, channels = first_BLO.shape
        padding = self.second.conv.padding
        padded_BLO = first_BLO.new_zeros(batch, length + 2 * padding, channels)
        torch.addcmul(shift_B1O, first_BLO, scale_B1O, out=padded_BLO[:, padding : padding + length])
        out_BLO = self.second.normed(padded_BLO)
        if self.skip is None:
            return out_BLO + x_BLI
        return out_BLO + self.skip(x_BLI.flatten(0, 1)).view(out_BLO.shape)
