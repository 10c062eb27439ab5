"""Adam(W) for a pack with a learning rate and weight decay per member, and moving averages of weights.

Uses PyTorch's fused kernels through `torch.optim`'s functional form, because `Optimizer.step` costs as much as the
update of a small network. Every parameter has a leading member axis M.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from raybc.config import RunConfig
from raybc.policies.packed import PackedModule
from raybc.train.dtensor import gather_full, shard_like
from raybc.train.schedule import is_monitored

#: Adam's moments of each parameter; in addition it keeps a scalar "step".
MOMENTS = ("exp_avg", "exp_avg_sq")
#: Adam's epsilon, PyTorch's default.
EPSILON = 1e-8


class _Moments(NamedTuple):
    """Adam's state of a parameter."""

    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class _Group(NamedTuple):
    """Parameters that are updated together."""

    member: int
    """Whose options and rate; 0 where all members are alike."""
    chosen: list[int]
    """Indices of the parameters."""
    decay: float
    """Weight decay."""


def matrices_of(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that decay with `weight_decay_on` matrices: weights of linear and convolutional layers.

    Not among them are biases, gains and shifts of norms, and embeddings, also of positions, as in Loshchilov and
    Hutter's AdamW as it is used for transformers (Karpathy's minGPT, which Diffusion Policy's transformer follows). A
    parameter outside of a layer of torch counts as a matrix if it has two dimensions of more than one entry.
    """
    found = set()
    for path, part in module.named_modules():
        owners = part.owners() if isinstance(part, PackedModule) else {}
        for name, parameter in part.named_parameters(recurse=False):
            owner, leaf = owners.get(name, (part, name))
            if _is_matrix(owner, leaf, parameter.shape[1:]):
                found.add(f"{path}.{name}" if path else name)
    return frozenset(found)


def _is_matrix(owner: nn.Module, name: str, shape: Sequence[int]) -> bool:
    """owner: the layer. name: of the parameter there. shape: without the member axis."""
    if isinstance(owner, nn.Embedding) or any(word in name for word in ("bias", "gain", "emb", "pos")):
        return False
    return len(shape) > 1 if name.startswith("weight") else sum(size > 1 for size in shape) > 1


class PackOptimizer:
    """Adam or AdamW on the packed parameters.

    If all members have the same learning rate at every step, the packed parameters are one parameter group. Otherwise
    there is one group per member, with slices that share the pack's memory. Both give the same result. With
    `weight_decay_on` matrices a group is two: what decays, and what does not.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], members: Sequence[RunConfig], matrices: Collection[str] = ()
    ) -> None:
        """
        Args:
            parameters: name -> parameter.
            members: options of each member.
            matrices: names of the parameters that decay with `weight_decay_on` matrices (`matrices_of`).
        """
        self._matrices = frozenset(matrices)
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.members = list(members)
        same = {
            (
                c.lr,
                c.lr_head,
                c.lr_finetune,
                c.min_lr,
                c.lr_schedule,
                c.schedule_steps,
                c.schedule_after,
                c.warm_up,
                c.weight_decay,
                c.weight_decay_on,
                c.adam_beta1,
                c.adam_beta2,
            )
            for c in members
        }
        self.split = len(self.members) > 1 and (len(same) > 1 or any(map(is_monitored, members)))
        if self.split:
            self._slices = [[nn.Parameter(p.detach()[m]) for p in self.parameters] for m in range(len(self.members))]
        else:
            self._slices = [self.parameters]
        self._update = adamw if self.members[0].optimizer == "adamw" else adam
        self._groups = [
            _Group(m, chosen, decay)
            for m, config in enumerate(self.members[: len(self._slices)])
            for chosen, decay in self._decays(config)
        ]
        self.rates = [self.members[group.member].lr for group in self._groups]
        """Learning rates of the latest step, one per group."""
        self.reset()

    def reset(self) -> None:
        """Discard all moments."""
        self._moments: list[dict[int, _Moments]] = [{} for _ in self._slices]

    def _decays(self, config: RunConfig) -> list[tuple[list[int], float]]:
        """(indices of parameters, their weight decay) of the groups of a member."""
        everything = range(len(self.parameters))
        if config.weight_decay_on == "all" or not config.weight_decay:
            return [(list(everything), config.weight_decay)]
        matrices = [i for i in everything if self.names[i] in self._matrices]
        others = [i for i in everything if self.names[i] not in self._matrices]
        return [(chosen, decay) for chosen, decay in ((matrices, config.weight_decay), (others, 0.0)) if chosen]

    @torch.no_grad()
    def step(self, rates: Sequence[float], bad: Tensor) -> None:
        """Update the parameters with their gradients; parameters without a gradient do not change.

        Args:
            rates: learning rate of each member.
            bad: float32 scalar on the device; 1 skips the update, without a synchronisation of the GPU.
        """
        grads: list[Sequence[Tensor] | None] = [
            None if p.grad is None else p.grad.unbind() if self.split else (p.grad,) for p in self.parameters
        ]
        self.rates = [rates[group.member] for group in self._groups]
        for group, rate in zip(self._groups, self.rates, strict=True):
            m, config = group.member, self.members[group.member]
            parameters, gradients, moments = list[Tensor](), list[Tensor](), list[_Moments]()
            for i in group.chosen:
                gradient = grads[i]
                if gradient is not None:
                    parameters.append(self._slices[m][i])
                    gradients.append(gradient[m])
                    moments.append(self._moments_of(m, i))
            self._update(
                parameters,
                gradients,
                [moment.exp_avg for moment in moments],
                [moment.exp_avg_sq for moment in moments],
                [],
                [moment.step for moment in moments],
                fused=True,
                found_inf=bad,
                amsgrad=False,
                beta1=config.adam_beta1,
                beta2=config.adam_beta2,
                lr=rate,
                weight_decay=group.decay,
                eps=EPSILON,
                maximize=False,
            )

    def _moments_of(self, member: int, index: int) -> _Moments:
        """The moments of a parameter; 0 before its first gradient."""
        found = self._moments[member].get(index)
        if found is None:
            parameter = self._slices[member][index]
            # The fused kernels need `step` on the device of the parameter.
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            found = self._moments[member][index] = _Moments(
                step, torch.zeros_like(parameter), torch.zeros_like(parameter)
            )
        return found

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser state: `NAME/exp_avg` and `NAME/exp_avg_sq` in the shape of the parameter, and `NAME/step`.

        Parameters that never had a gradient are left out.
        """
        found: dict[str, Tensor] = {}
        for i, key in enumerate(self.names):
            states = [moments[i] for moments in self._moments if i in moments]
            if states:
                found[f"{key}/step"] = states[0].step
                for name in MOMENTS:
                    kept = [getattr(state, name) for state in states]
                    found[f"{key}/{name}"] = gather_full(torch.stack(kept) if self.split else kept[0])
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a state from `tensors`."""
        for i, (key, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            if f"{key}/step" not in tensors:
                continue
            for m, moments in enumerate(self._moments):
                saved = [tensors[f"{key}/{name}"] for name in MOMENTS]
                first, second = (shard_like(v[m].clone() if self.split else v, parameter) for v in saved)
                moments[i] = _Moments(tensors[f"{key}/step"].clone().to(parameter.device), first, second)


class Ema:
    """Exponential moving averages of the parameters.

    At step t (from 1), e <- e + (1 - d_t) (p - e) with d_t = min(d, limit_t), so that the initial weights lose their
    influence early. limit_t is (1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage, or with a power k > 0
    1 - t^-k: what `diffusers`' EMAModel does with `use_ema_warmup`, `inv_gamma` 1 and `power` k. Diffusion Policy's
    own EMAModel is one step behind, 0 and then 1 - (t - 1)^-k, because it reads its counter before it increases it.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], decays: Sequence[float], powers: Sequence[float] = ()
    ) -> None:
        """decays, powers: of each member (no powers: 0 for all)."""
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.decays, self.powers = list(decays), list(powers) or [0.0] * len(decays)
        self.values = [p.detach().clone() for p in self.parameters]

    def decay(self, member: int, step: int) -> float:
        """d_t of a member. step: from 1."""
        power = self.powers[member]
        return min(self.decays[member], 1 - step**-power if power else (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int, stopped: Sequence[bool]) -> None:
        """Update the averages. step: from 1. stopped: members that do not change any more."""
        weights = [0.0 if s else 1 - self.decay(m, step) for m, s in enumerate(stopped)]
        if len(set(weights)) == 1:
            torch._foreach_lerp_(self.values, list[Tensor](self.parameters), weights[0])
            return
        weight_M = torch.tensor(weights, device=self.values[0].device)
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter, weight_M.view(-1, *[1] * (value.ndim - 1)))
