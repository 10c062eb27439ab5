"""Layers for a pack of members: every parameter carries a leading member axis M.

Letters: M members, B batch, I input features, O output features.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """M linear layers: y_MBO = x_MBI @ weights_MIO + bias_M1O, one batched product."""

    is_fsdp_unit = True

    def __init__(self, members: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weights_MIO = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias_M1O = nn.Parameter(torch.empty(members, 1, outputs)) if bias else None

    def init_member(self, m: int, generator: torch.Generator) -> None:
        """LeCun-normal weights and zero bias for member m, independent of the size of the pack."""
        inputs, outputs = self.weights_MIO.shape[1:]
        with torch.no_grad():
            self.weights_MIO[m] = torch.randn(inputs, outputs, generator=generator) / math.sqrt(inputs)
            if self.bias_M1O is not None:
                self.bias_M1O[m] = 0.0

    @torch.no_grad()
    def pad_outputs(self, multiple: int) -> None:
        """Append outputs that are always 0 until their number is a multiple of `multiple`, for inference."""
        missing = -self.weights_MIO.shape[2] % multiple
        for name, _ in list(self.named_parameters()):
            padded = nn.functional.pad(getattr(self, name), (0, missing))
            setattr(self, name, nn.Parameter(padded, requires_grad=False))

    def forward(self, x_MBI: Tensor) -> Tensor:
        if self.bias_M1O is None:
            return torch.bmm(x_MBI, self.weights_MIO)
        return torch.baddbmm(self.bias_M1O, x_MBI, self.weights_MIO)


#: Added to variances in LayerNorm.
EPS = 1e-6


def norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without weights: a linear layer that follows contains them."""
    return nn.functional.layer_norm(x, (int(x.shape[-1]),), eps=EPS)  # int: exported graphs need a constant


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
    inner = torch.addcmul(torch.full((), _LINEAR, dtype=x.dtype), x, x, value=_CUBIC)
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
        slope = torch.addcmul(torch.full((), _LINEAR, dtype=x.dtype), x, x, value=3 * _CUBIC).mul_(x)
        return slope.addcmul_(slope, gate, value=-1).add_(1).mul_(gate).mul_(grad)


class PackedMLP(nn.Module):
    """M perceptrons with `depth` hidden layers of `width` GELU units."""

    def __init__(self, members: int, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth, outputs]
        self.layers = nn.ModuleList(PackedLinear(members, i, o) for i, o in itertools.pairwise(sizes))

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        for m, generator in enumerate(generators):
            for layer in self.layers:
                assert isinstance(layer, PackedLinear)
                layer.init_member(m, generator)

    def pad_outputs(self, multiple: int) -> None:
        """See `PackedLinear.pad_outputs`."""
        self.layers[-1].pad_outputs(multiple)  # type: ignore[operator]  # a PackedLinear

    def forward(self, x_MBI: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x_MBI = gelu(layer(x_MBI))
        return self.layers[-1](x_MBI)


#: Units of the hidden layer of a residual block, in widths.
EXPANSION = 4


class PackedResidualMLP(nn.Module):
    """M perceptrons with `depth` residual blocks: x <- x + down(gelu(up(norm(x)))), and out(norm(x)) at last.

    (Lee et al. 2024, "SimBa: Simplicity Bias for Scaling Up Parameters in Deep Reinforcement Learning", with GELU.)
    """

    def __init__(self, members: int, inputs: int, outputs: int, width: int, depth: int, conditions: int = 0) -> None:
        """
        Args:
            members: M.
            inputs: I.
            outputs: O.
            width: of x.
            depth: number of blocks.
            conditions: further inputs, which `condition` processes once for many calls.
        """
        super().__init__()
        self.first = PackedLinear(members, inputs, width)
        self.observe = PackedLinear(members, conditions, width, bias=False) if conditions else None
        self.up = nn.ModuleList(PackedLinear(members, width, EXPANSION * width) for _ in range(depth))
        self.down = nn.ModuleList(PackedLinear(members, EXPANSION * width, width) for _ in range(depth))
        self.out = PackedLinear(members, width, outputs)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        for m, generator in enumerate(generators):
            for layer in self.modules():
                if isinstance(layer, PackedLinear):
                    layer.init_member(m, generator)

    def pad_outputs(self, multiple: int) -> None:
        """See `PackedLinear.pad_outputs`."""
        self.out.pad_outputs(multiple)

    def condition(self, cond_MBF: Tensor) -> Tensor:
        """The contribution of the further inputs to x, (M, B, width)."""
        assert self.observe is not None
        return self.observe(cond_MBF)

    def forward(self, x_MBI: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.first(x_MBI)
        x = x if condition is None else x + condition
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(gelu(up(norm(x))))
        return self.out(norm(x))


def fourier_features(t: Tensor, frequencies: int) -> Tensor:
    """Features of the flow time: (..., 1) -> (..., 2 * frequencies), cos and sin of 2^k pi t for k = 0, 1, ...

    Fixed, not learned (Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions").
    """
    angles = t * (math.pi * 2.0 ** torch.arange(frequencies, device=t.device, dtype=t.dtype))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class PackedModule(nn.Module):
    """M copies of an ordinary module, for networks that were not written for packs.

    Each parameter of `make()` becomes one with a leading member axis (dots in its name become `__`); members are run
    one after another. Modules with buffers that learn (BatchNorm) are refused.
    """

    is_fsdp_unit = True

    def __init__(self, make: Callable[[], nn.Module], members: int) -> None:
        super().__init__()
        self._make = make
        with torch.device("meta"):  # structure only: no memory, no random numbers
            template = make()
        if list(template.buffers()):
            raise ValueError(f"{type(template).__name__}: expected a module without buffers (no BatchNorm)")
        for name, parameter in template.named_parameters():
            self.register_parameter(name.replace(".", "__"), nn.Parameter(torch.empty(members, *parameter.shape)))
        self._names = [name for name, _ in template.named_parameters()]
        self._owners = {name: template.get_submodule(name.rpartition(".")[0]) for name in self._names}
        self._template = [template]  # in a list, so that its parameters are not registered

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise the weights as `make` does, with a seed from the member's generator."""
        for m, generator in enumerate(generators):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
                for name, parameter in self._make().named_parameters():
                    getattr(self, name.replace(".", "__"))[m] = parameter

    def owners(self) -> dict[str, tuple[nn.Module, str]]:
        """Name of a parameter -> the module that it belongs to in `make()`, and its name there."""
        return {n.replace(".", "__"): (owner, n.rpartition(".")[2]) for n, owner in self._owners.items()}

    def _call(self, weights: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """Call the module with these weights, name -> tensor."""
        if not torch.jit.is_tracing():
            output: Tensor = torch.func.functional_call(self._template[0], dict(weights), inputs)
            return output
        module = copy.deepcopy(self._template[0])  # tracing exporters do not support functional calls
        for name, weight in weights.items():
            path, _, leaf = name.rpartition(".")
            parent = module.get_submodule(path)
            del parent._parameters[leaf]
            setattr(parent, leaf, weight)
        output = module(*inputs)
        return output

    def forward(self, *inputs_M: Tensor) -> Tensor:
        """Run each member on its slice of the inputs, (M, ...); outputs (M, ...)."""
        outputs = []
        for m, inputs in enumerate(zip(*inputs_M, strict=True)):
            weights = {name: getattr(self, name.replace(".", "__"))[m] for name in self._names}
            outputs.append(self._call(weights, inputs))
        return torch.stack(outputs)
