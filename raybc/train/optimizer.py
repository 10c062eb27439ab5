"""Adam(W) for a pack with a learning rate and weight decay per member, and moving averages of weights.

Uses PyTorch's fused kernels. Every parameter has a leading member axis M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.train.dtensor import gather_full, shard_like
from raybc.train.schedule import is_monitored

#: Adam's moments of each parameter; in addition it keeps a scalar "step".
MOMENTS = ("exp_avg", "exp_avg_sq")


class PackOptimizer:
    """Adam or AdamW on the packed parameters.

    If all members have the same learning rate at every step, the packed parameters are one parameter group. Otherwise
    there is one group per member, with slices that share the pack's memory. Both give the same result.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], members: Sequence[RunConfig]) -> None:
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
        groups = [
            {"params": params, "lr": c.lr, "weight_decay": c.weight_decay, "betas": (c.adam_beta1, c.adam_beta2)}
            for params, c in zip(self._slices, self.members, strict=False)
        ]
        self._adam = kind(groups, fused=True)

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
        for group, rate in zip(self._adam.param_groups, rates, strict=False):
            group["lr"] = rate
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
    1 - t^-k, as in Diffusion Policy (its `EMAModel` with `inv_gamma` 1 and `power` k, which counts steps from 0).
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
