"""Flow-matching behaviour cloning with action chunking, for any velocity field.

    x_t = (1 - t) x_0 + t x_1,   x_0 ~ N(0, I),   x_1 = expert's chunk,   t ~ U[0, 1)
    loss = mean over valid chunk entries of || v(x_t, t | obs) - (x_1 - x_0) ||^2
    sample: x <- x_0;  for i = 0 .. S-1:  x <- x + v(x, i / S | obs) / S

(Lipman et al. 2023, "Flow Matching for Generative Modeling", optimal-transport path; Euler integration.)
t = 0 is noise, t = 1 is data. Letters: M members, B batch, H chunk, A action dim, F features of the observation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raybc.policies.base import (
    Draws,
    DrawShape,
    ImageEncoders,
    Loss,
    Policy,
    PolicySpec,
    build_encoders,
    mean_over_valid,
)
from raybc.policies.fields.mlp import MLPField
from raybc.types import Batch, Observation, SampleSetting

if TYPE_CHECKING:
    from raybc.config import RunConfig


class VelocityField(nn.Module, ABC):
    """v(x, t | obs) for a pack of M members."""

    @abstractmethod
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise the weights; member m depends on generators[m] alone."""

    def condition(self, cond_MBF: Tensor) -> Any:
        """Preprocess an encoded observation, (M, B, F), once per chunk instead of once per flow step."""
        return cond_MBF

    @abstractmethod
    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Any) -> Tensor:
        """The velocity, (M, B, H, A). t_MB1: (M, 1, 1) if all rows share it. condition: result of `condition`."""

    def prepare_for_acting(self) -> None:
        """See `Policy.prepare_for_acting`."""


class FlowPolicy(Policy):
    """A pack of M flow policies: image encoders and a velocity field."""

    def __init__(self, spec: PolicySpec, encoders: ImageEncoders, velocity_field: Any, members: int) -> None:
        super().__init__()
        self.spec, self.members = spec, members
        self.encoders = encoders
        self.velocity_field = velocity_field

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        self.velocity_field.init_members(generators)
        self.encoders.init_members(generators)

    def draws(self) -> Mapping[str, DrawShape]:
        return {"noise": DrawShape("normal", (self.spec.horizon, self.spec.action_size)), "time": DrawShape("uniform")}

    def encode(self, obs: Observation[Tensor]) -> Tensor:
        """The encoded observation, (M, B, F)."""
        return self.encoders.encode(obs)

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """The flow-matching loss, averaged over valid entries. draws: noise (M, B, H, A), time (M, B)."""
        x_1, x_0, time = batch.actions_MBHA, draws["noise"], draws["time"]
        t_MB11 = time[..., None, None]
        x_t = (1 - t_MB11) * x_0 + t_MB11 * x_1
        condition = self.velocity_field.condition(self.encode(batch.obs))
        error_MBHA = (self.velocity_field(x_t, time[..., None], condition) - (x_1 - x_0)) ** 2
        loss_MB = mean_over_valid(error_MBHA, batch.is_pad_MBH)
        return Loss(loss_MB, {"bc_flow_loss": loss_MB})

    def sample(self, obs: Observation[Tensor], noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """Integrate the flow from the noise with `flow_steps` Euler steps; float32 (M, B, H, A)."""
        condition = self.velocity_field.condition(self.encode(obs))
        x = noise_MBHA
        for i in range(setting.flow_steps):
            t_M11 = x.new_full((x.shape[0], 1, 1), i / setting.flow_steps)
            x = x + self.velocity_field(x, t_M11, condition) / setting.flow_steps
        return x

    def prepare_for_acting(self) -> None:
        self.velocity_field.prepare_for_acting()


def with_field(run: RunConfig, spec: PolicySpec, members: int, make_field: Callable[[int], Any]) -> FlowPolicy:
    """A flow policy whose velocity field is `make_field(features of an encoded observation)`."""
    encoders = build_encoders(run.encoder, spec, members)
    return FlowPolicy(spec, encoders, make_field(encoders.features), members)


def build(run: RunConfig, spec: PolicySpec, members: int) -> FlowPolicy:
    """Builder of `--policy flow`, with an MLP as velocity field."""
    config: Any = run.policy
    return with_field(
        run, spec, members,
        lambda features: MLPField(
            members, features, spec.horizon, spec.action_size, width=config.hidden_width, depth=config.hidden_depth,
            fourier=config.use_fourier_features,
        ),
    )  # fmt: skip
