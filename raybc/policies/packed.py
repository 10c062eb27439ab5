"""Layers for a pack of members: every parameter carries a leading member axis M.

Letters: M members, B batch, I input features, O output features.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from raybc.policies.activations import gelu
from raybc.policies.frozen import MKL_ROWS, FrozenLinear, can_freeze, is_acting


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

    def freeze(self, onednn: bool = True) -> FrozenLinear:
        """The layer of a pack of one member for acting. onednn: see `FrozenLinear`."""
        bias_O = None if self.bias_M1O is None else self.bias_M1O.detach()[0, 0]
        return FrozenLinear(self.weights_MIO.detach()[0], bias_O, onednn)

    def forward(self, x_MBI: Tensor) -> Tensor:
        if self.bias_M1O is None:
            return torch.bmm(x_MBI, self.weights_MIO)
        return torch.baddbmm(self.bias_M1O, x_MBI, self.weights_MIO)


#: Added to variances in LayerNorm.
EPS = 1e-6


def norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without weights: a linear layer that follows contains them."""
    return nn.functional.layer_norm(x, (int(x.shape[-1]),), eps=EPS)  # int: exported graphs need a constant


class PackedMLP(nn.Module):
    """M perceptrons with hidden layers of GELU or ReLU units."""

    frozen: Sequence[FrozenLinear] | None = None
    """The layers for acting."""

    def __init__(self, members: int, inputs: int, outputs: int, widths: Sequence[int], relu: bool = False) -> None:
        """
        Args:
            members: M.
            inputs: I.
            outputs: O.
            widths: units of each hidden layer.
            relu: ReLU in place of GELU.
        """
        super().__init__()
        self.relu = relu
        sizes = [inputs, *widths, outputs]
        self.layers = nn.ModuleList(PackedLinear(members, i, o) for i, o in itertools.pairwise(sizes))

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        for m, generator in enumerate(generators):
            for layer in self.layers:
                assert isinstance(layer, PackedLinear)
                layer.init_member(m, generator)

    def prepare_for_acting(self) -> None:
        """See `Policy.prepare_for_acting`. Without oneDNN, so that chunks of saved policies keep their bits."""
        if can_freeze(self):
            self.frozen = [layer.freeze(onednn=False) for layer in self.layers]  # type: ignore[operator]

    def forward(self, x_MBI: Tensor) -> Tensor:
        if self.frozen is not None and is_acting():
            rows = x_MBI.shape[1]
            x_BI = nn.functional.pad(x_MBI[0], (0, 0, 0, MKL_ROWS - rows)) if rows < MKL_ROWS else x_MBI[0]
            for frozen in self.frozen[:-1]:
                x_BI = frozen(x_BI).relu() if self.relu else frozen(x_BI, gelu=True)
            return self.frozen[-1](x_BI)[:rows].unsqueeze(0)
        *hidden, last = self.layers
        for layer in hidden:
            x_MBI = nn.functional.relu(layer(x_MBI)) if self.relu else gelu(layer(x_MBI))
        out: Tensor = last(x_MBI)
        return out


#: Units of the hidden layer of a residual block, in widths.
EXPANSION = 4


class PackedResidualMLP(nn.Module):
    """M perceptrons with `depth` residual blocks: x <- x + down(gelu(up(norm(x)))), and out(norm(x)) at last.

    (Lee et al. 2024, "SimBa: Simplicity Bias for Scaling Up Parameters in Deep Reinforcement Learning", with GELU.)
    """

    frozen: FrozenResidualMLP | None = None
    """The perceptron for acting."""

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

    def prepare_for_acting(self) -> None:
        """See `Policy.prepare_for_acting`."""
        if can_freeze(self):
            self.frozen = FrozenResidualMLP(self)

    def condition(self, cond_MBF: Tensor) -> Tensor:
        """The contribution of the further inputs to x, (M, B, width)."""
        if self.frozen is not None and is_acting():
            return self.frozen.observe(cond_MBF[0]).unsqueeze(0)
        assert self.observe is not None
        observed: Tensor = self.observe(cond_MBF)
        return observed

    def forward(self, x_MBI: Tensor, condition: Tensor | None = None) -> Tensor:
        if self.frozen is not None and is_acting():
            return self.frozen(x_MBI[0], None if condition is None else condition[0]).unsqueeze(0)
        x = self.first(x_MBI)
        x = x if condition is None else x + condition
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(gelu(up(norm(x))))
        return self.out(norm(x))


class FrozenResidualMLP:
    """A `PackedResidualMLP` of one member for acting."""

    def __init__(self, mlp: PackedResidualMLP) -> None:
        self.first, self.out = mlp.first.freeze(), mlp.out.freeze()
        self.blocks = [(up.freeze(), down.freeze()) for up, down in zip(mlp.up, mlp.down, strict=True)]  # type: ignore[operator]
        self.observe = self.first if mlp.observe is None else mlp.observe.freeze()

    def __call__(self, x_BI: Tensor, condition: Tensor | None) -> Tensor:
        x = self.first(x_BI)
        x = x if condition is None else x + condition
        for up, down in self.blocks:
            x = x + down(up(norm(x), gelu=True))
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
    one after another. Modules with buffers (BatchNorm) are refused, because nothing here calls `train()` and `eval()`,
    unless `buffers` says that they need no such calls; their buffers then have a member axis, too.
    """

    is_fsdp_unit = True

    def __init__(self, make: Callable[[], nn.Module], members: int, buffers: bool = False) -> None:
        super().__init__()
        self._make = make
        with torch.device("meta"):  # structure only: no memory, no random numbers
            template = make()
        if list(template.buffers()) and not buffers:
            raise ValueError(f"{type(template).__name__}: expected a module without buffers (no BatchNorm)")
        for name, parameter in template.named_parameters():
            self.register_parameter(name.replace(".", "__"), nn.Parameter(torch.empty(members, *parameter.shape)))
        for name, buffer in template.named_buffers():
            self.register_buffer(name.replace(".", "__"), torch.empty(members, *buffer.shape, dtype=buffer.dtype))
        self._names = [name for name, _ in template.named_parameters()]
        self._buffer_names = [name for name, _ in template.named_buffers()]
        self._owners = {name: template.get_submodule(name.rpartition(".")[0]) for name in self._names}
        self._template = [template]  # in a list, so that its parameters are not registered

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise the weights as `make` does, with a seed from the member's generator."""
        for m, generator in enumerate(generators):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
                made = self._make()
                for name, value in itertools.chain(made.named_parameters(), made.named_buffers()):
                    getattr(self, name.replace(".", "__"))[m] = value

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
            (parent._parameters if leaf in parent._parameters else parent._buffers).pop(leaf)
            setattr(parent, leaf, weight)
        output = module(*inputs)
        return output

    def forward(self, *inputs_M: Tensor) -> Tensor:
        """Run each member on its slice of the inputs, (M, ...); outputs (M, ...)."""
        outputs = []
        for m, inputs in enumerate(zip(*inputs_M, strict=True)):
            names = (*self._names, *self._buffer_names)
            weights = {name: getattr(self, name.replace(".", "__"))[m] for name in names}
            outputs.append(self._call(weights, inputs))
        return torch.stack(outputs)
