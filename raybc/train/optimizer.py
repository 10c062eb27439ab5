"""AdamW for a pack whose members may have learning rates and weight decays of their own, and averages of weights.

The kernels are PyTorch's fused ones. Letters: M members, P parameters of the pack (each with a leading member axis).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.train.dtensor import gather_full, shard_like
from raybc.train.schedule import is_monitored, warmup_steps

#: What Adam keeps of each parameter; "step" is one number.
MOMENTS = ("exp_avg", "exp_avg_sq")


class PackOptimizer:
    """Where all members have the same rate at every step, the packed parameters are one group. Otherwise each member's
    slices (they share the pack's memory) are a group of their own; what is computed is the same."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], members: Sequence[RunConfig]) -> None:
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.members = list(members)
        same = {
            (c.lr, c.min_lr, c.lr_schedule, c.schedule_steps, c.schedule_after, warmup_steps(c), c.weight_decay)
            for c in members
        }
        self.split = len(self.members) > 1 and (len(same) > 1 or any(map(is_monitored, members)))
        if self.split:
            self._slices = [[nn.Parameter(p.detach()[m]) for p in self.parameters] for m in range(len(self.members))]
        else:
            self._slices = [self.parameters]
        self.reset()

    def reset(self) -> None:
        """Forget all moments."""
        kind = torch.optim.AdamW if self.members[0].optimizer == "adamw" else torch.optim.Adam
        groups = [
            {"params": params, "lr": c.lr, "weight_decay": c.weight_decay}
            for params, c in zip(self._slices, self.members, strict=False)
        ]
        self._adam = kind(groups, fused=True)

    @property
    def rates(self) -> list[float]:
        """The rates of the latest step, one for each group."""
        return [group["lr"] for group in self._adam.param_groups]

    def step(self, rates: Sequence[float], bad: Tensor) -> None:
        """Update with the gradients of the packed parameters. A parameter without a gradient stays as it is.

        bad: float32 scalar on the device; where it is 1, nothing is changed, and nobody had to wait for its value.
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
        """`NAME/exp_avg`, `NAME/exp_avg_sq` in the shape of the parameter, and `NAME/step`; nothing for a parameter
        that had no gradient."""
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
        """The inverse of `tensors`."""
        for i, (key, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            if f"{key}/step" not in tensors:
                continue
            for m, slices in enumerate(self._slices):
                # Adam's kernels want the step of a CPU parameter on the CPU, of another beside it.
                state = {"step": tensors[f"{key}/step"].clone().to(parameter.device)}
                for name in MOMENTS:
                    moment = tensors[f"{key}/{name}"]
                    state[name] = shard_like(moment[m].clone() if self.split else moment, parameter)
                self._adam.state[slices[i]] = state


class Ema:
    """Exponential moving averages of the parameters: e <- e + (1 - d_t) (p - e), d_t = min(d, (1 + t) / (10 + t)) at
    step t (from 1), so that the start is forgotten soon (as in TensorFlow's ExponentialMovingAverage)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decays: Sequence[float]) -> None:
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.decays = list(decays)
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int, stopped: Sequence[bool]) -> None:
        ramp = (1 + step) / (10 + step)
        weights = [0.0 if s else 1 - min(d, ramp) for d, s in zip(self.decays, stopped, strict=True)]
        if len(set(weights)) == 1:
            torch._foreach_lerp_(self.values, list[Tensor](self.parameters), weights[0])
            return
        weight_M = torch.tensor(weights, device=self.values[0].device)
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter, weight_M.view(-1, *[1] * (value.ndim - 1)))
