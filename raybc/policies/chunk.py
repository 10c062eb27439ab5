"""What all objectives have in common: image encoders and a network f(x, t | obs).

An objective is a subclass with a loss and a way to sample. `OBJECTIVES` lists them.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raybc.policies.base import ImageEncoders, Policy, PolicySpec, build_encoders
from raybc.types import Observation, SampleSetting

if TYPE_CHECKING:
    from raybc.config import RunConfig

#: `--objective` -> the class of its policies.
OBJECTIVES = {
    "flow": "raybc.policies.flow:FlowPolicy",
    "mip": "raybc.policies.mip:MipPolicy",
    "regression": "raybc.policies.regression:FieldRegression",
    "diffusion": "raybc.policies.diffusion:DiffusionPolicy",
}


class ChunkPolicy(Policy):
    """A pack of M policies that share the objective: image encoders and a network."""

    def __init__(
        self, spec: PolicySpec, encoders: ImageEncoders, velocity_field: Any, members: int, run: RunConfig | None = None
    ) -> None:
        """
        Args:
            spec: sizes.
            encoders: of the images.
            velocity_field: a `raybc.policies.fields.base.Field`. (The name is that of saved weights; what the network
                predicts is up to the objective.)
            members: M.
            run: options of the objective; None: defaults.
        """
        super().__init__()
        self.spec, self.members = spec, members
        self.encoders = encoders
        self.velocity_field = velocity_field
        self.zero_gates = velocity_field.zero_gates
        if run is not None:
            self.sample_axes = run.policy.sample_axes  # type: ignore[misc]  # of the objective
            self.configure(run)

    def configure(self, run: RunConfig) -> None:
        """Read the options of the objective."""

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        self.velocity_field.init_members(generators)
        self.encoders.init_members(generators)

    def encode(self, obs: Observation[Tensor]) -> Tensor:
        """The encoded observation, (M, B, F)."""
        return self.encoders.encode(obs)

    def condition(self, obs: Observation[Tensor]) -> Any:
        """What the network needs of an observation, once per chunk."""
        return self.velocity_field.condition(self.encode(obs))

    def sample(self, obs: Observation[Tensor], noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        return self.sample_encoded(self.encode(obs), noise_MBHA, setting)

    def candidates(self, obs: Observation[Tensor], noise_MBNHA: Tensor, setting: SampleSetting) -> Tensor:
        """As `Policy.candidates`; an observation is encoded once."""
        count = noise_MBNHA.shape[2]
        cond_MBF = self.encode(obs).repeat_interleave(count, dim=1)
        return self.sample_encoded(cond_MBF, noise_MBNHA.flatten(1, 2), setting).unflatten(1, (-1, count))

    @abstractmethod
    def sample_encoded(self, cond_MBF: Tensor, noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """`sample` for encoded observations, (M, B, F)."""

    def prepare_for_acting(self) -> None:
        self.velocity_field.prepare_for_acting()
        self.encoders.prepare_for_acting()


def at_time(x_MBHA: Tensor, time: float) -> Tensor:
    """A time that all rows share, (M, 1, 1)."""
    return x_MBHA.new_full((x_MBHA.shape[0], 1, 1), time)


def build(run: RunConfig, spec: PolicySpec, members: int) -> ChunkPolicy:
    """Builder of the kinds with an `objective`; `run.policy.network` names the network's builder.

    It is called with (run, spec, features of an encoded observation, members).
    """
    config: Any = run.policy
    encoders = build_encoders(run.encoder, spec, members)
    field = _named(config.network)(run, spec, encoders.features, members)
    policy: ChunkPolicy = _named(OBJECTIVES[config.objective])(spec, encoders, field, members, run)
    return policy


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
