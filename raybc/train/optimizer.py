"""Adam(W) for a pack with a learning rate and weight decay per member, and moving averages of weights.

Uses PyTorch's fused kernels. Every parameter has a leading member axis M.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.policies.packed import PackedModule
from raybc.train.dtensor import gather_full, shard_like
from raybc.train.schedule import is_monitored

#: Adam's moments of each parameter; in addition it keeps a scalar "step".
MOMENTS = ("exp_avg", "exp_avg_sq")


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
        self.reset()

    def reset(self) -> None:
        """Discard all moments."""
        kind = torch.optim.AdamW if self.members[0].optimizer == "adamw" else torch.optim.Adam
        groups, self._members_of_groups = [], list[int]()
        for m, (params, c) in enumerate(zip(self._slices, self.members, strict=False)):
            for chosen, decay in self._decays(c):
                betas = (c.adam_beta1, c.adam_beta2)
                groups.append(
                    {"params": [params[i] for i in chosen], "lr": c.lr, "weight_decay": decay, "betas": betas}
                )
                self._members_of_groups.append(m)
        self._adam = kind(groups, fused=True)

    def _decays(self, config: RunConfig) -> list[tuple[list[int], float]]:
        """(indices of parameters, their weight decay) of the groups of a member."""
        everything = range(len(self.parameters))
        if config.weight_decay_on == "all" or not config.weight_decay:
            return [(list(everything), config.weight_decay)]
        matrices = [i for i in everything if self.names[i] in self._matrices]
        others = [i for i in everything if self.names[i] not in self._matrices]
        return [(chosen, decay) for chosen, decay in ((matrices, config.weight_decay), (others, 0.0)) if chosen]

    @property
    def rates(self) -> list[float]:
        """Learning rates of the latest step, one per parameter group."""
        return [group["lr"] for group in self._adam.param_groups]

    def step(self, rates: Sequence[float], bad: Tensor) -> None:
        """Update the parameters with their gradients; parameters without a gradient do not change.

        Args:
            rates: learning rate of each member.
            bad: float32 scalar on the device; 1 skips the update, without a synchronisation of the GPU.
        """
        if self.split:
            for i, parameter in enumerate(self.parameters):
                for m, slices in enumerate(self._slices):
                    slices[i].grad = None if parameter.grad is None else parameter.grad[m]
        for group, m in zip(self._adam.param_groups, self._members_of_groups, strict=True):
            group["lr"] = rates[m]
        self._adam.found_inf = bad  # type: ignore[attr-defined]  # what GradScaler sets; read by the fused kernels
        self._adam.step()

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser state: `NAME/exp_avg` and `NAME/exp_avg_sq` in the shape of the parameter, and `NAME/step`.

        Parameters that never had a gradient are left out.
        """
        found: dict[str, Tensor] = {}
        for i, key in enumerate(self.names):
            states = [self._adam.state.get(slices[i], {}) for slices in self._slices]
            if states[0]:
                found[f"{key}/step"] = states[0]["step"]
                for name in MOMENTS:
                    kept = torch.stack([s[name] for s in states]) if self.split else states[0][name]
                    found[f"{key}/{name}"] = gather_full(kept)
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a state from `tensors`."""
        for i, (key, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            if f"{key}/step" not in tensors:
                continue
            for m, slices in enumerate(self._slices):
                # The fused kernels need `step` on the device of the parameter.
                state = {"step": tensors[f"{key}/step"].clone().to(parameter.device)}
                for name in MOMENTS:
                    moment = tensors[f"{key}/{name}"]
                    state[name] = shard_like(moment[m].clone() if self.split else moment, parameter)
                self._adam.state[slices[i]] = state


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
