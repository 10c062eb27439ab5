"""Behaviour cloning by regression: one evaluation of the network predicts the chunk.

    loss = mean over valid chunk entries of (p(obs) - x_1)^2, or of |p(obs) - x_1|,   x_1 = expert's chunk

`RegressionPolicy` (`--policy regression`) is a multilayer perceptron of the observation; `FieldRegression`
(`--objective regression`) is any network f(x, t | obs) at x = 1, t = 0 (at x = 0, as in Pan et al. 2025, the first
convolution of a U-Net would have no gradient). Letters: M members, B batch, H chunk, A action
dim, F features of the observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

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
from raybc.policies.chunk import ChunkPolicy, at_time
from raybc.policies.packed import PackedMLP, PackedResidualMLP
from raybc.types import Batch, Observation, SampleSetting

if TYPE_CHECKING:
    from raybc.config import RunConfig


class RegressionPolicy(Policy):
    """A pack of M policies that predict the chunk with a multilayer perceptron."""

    sample_axes = ("execute_steps", "temporal_ensemble")

    def __init__(
        self,
        spec: PolicySpec,
        encoders: ImageEncoders,
        members: int,
        network: PackedMLP | PackedResidualMLP,
        error: Literal["mse", "l1"],
    ) -> None:
        super().__init__()
        self.spec, self.members, self.error = spec, members, error
        self.encoders = encoders
        self.network = network

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        self.network.init_members(generators)
        self.encoders.init_members(generators)

    def draws(self) -> Mapping[str, DrawShape]:
        return {}

    def predict(self, obs: Observation[Tensor]) -> Tensor:
        """The normalised chunk, float32 (M, B, H, A)."""
        spec = self.spec
        return self.network(self.encoders.encode(obs)).unflatten(-1, (spec.horizon, spec.action_size))

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        return _loss(self.predict(batch.obs), batch, self.error)

    def sample(self, obs: Observation[Tensor], noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """The predicted chunk, float32 (M, B, H, A). Adding 0 * noise keeps the noise an input of exported graphs."""
        return self.predict(obs) + 0 * noise_MBHA

    def prepare_for_acting(self) -> None:
        self.network.prepare_for_acting()
        self.encoders.prepare_for_acting()


class FieldRegression(ChunkPolicy):
    """A pack of M policies that predict the chunk with any network."""

    sample_axes = ("execute_steps", "temporal_ensemble")
    error: Literal["mse", "l1"] = "mse"

    def configure(self, run: RunConfig) -> None:
        config: Any = run.policy
        self.error = config.regression_loss

    def draws(self) -> Mapping[str, DrawShape]:
        return {}

    def _predict(self, cond_MBF: Tensor, one_MBHA: Tensor) -> Tensor:
        condition = self.velocity_field.condition(cond_MBF)
        chunk: Tensor = self.velocity_field(one_MBHA, at_time(one_MBHA, 0.0), condition)
        return chunk

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        return _loss(self._predict(self.encode(batch.obs), torch.ones_like(batch.actions_MBHA)), batch, self.error)

    def sample_encoded(self, cond_MBF: Tensor, noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """One evaluation; float32 (M, B, H, A). 0 * noise keeps the noise an input of exported graphs."""
        return self._predict(cond_MBF, 1 + 0 * noise_MBHA)


def _loss(chunk_MBHA: Tensor, batch: Batch, error: Literal["mse", "l1"]) -> Loss:
    difference = chunk_MBHA - batch.actions_MBHA
    error_MBHA = difference**2 if error == "mse" else difference.abs()
    loss_MB = mean_over_valid(error_MBHA, batch.is_pad_MBH)
    return Loss(loss_MB, {f"bc_{error}_loss": loss_MB})


def build(run: RunConfig, spec: PolicySpec, members: int) -> RegressionPolicy:
    """Builder of `--policy regression`."""
    config: Any = run.policy
    encoders = build_encoders(run.encoder, spec, members)
    sizes = members, encoders.features, spec.horizon * spec.action_size
    network: PackedMLP | PackedResidualMLP
    if config.hidden_block == "residual":
        network = PackedResidualMLP(*sizes, config.hidden_width, config.hidden_depth)
    else:
        network = PackedMLP(*sizes, config.widths, config.hidden_activation == "relu")
    return RegressionPolicy(spec, encoders, members, network, config.regression_loss)
