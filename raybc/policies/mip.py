"""MIP: two-step regression, for any network f(x, t | obs).

    loss = mean over valid chunk entries of  ||f(0, 0 | obs) - a||^2 / s^2
                                           + ||f(a + (1 - s) z, s | obs) - a||^2 / (1 - s)^2,   z ~ N(0, I),  s = 0.9
    sample: f(f(0, 0 | obs), s | obs)

a is the expert's chunk. The first evaluation is a regression, the second refines it; nothing is random when acting.
(Pan et al. 2025, "Much Ado About Noising": the minimal iterative policy, as in the authors' code. The paper scales the
chunk in the second step's input by s, in training and when acting.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raybc.policies.base import Draws, DrawShape, Loss, mean_over_valid
from raybc.policies.chunk import ChunkPolicy, at_time
from raybc.types import Batch, SampleSetting

#: s, the time of the second step.
SECOND = 0.9


class MipPolicy(ChunkPolicy):
    """A pack of M minimal iterative policies."""

    sample_axes = ("execute_steps", "temporal_ensemble")

    def draws(self) -> Mapping[str, DrawShape]:
        return {"noise": DrawShape("normal", (self.spec.horizon, self.spec.action_size))}

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """The sum of both steps' errors. draws: noise (M, B, H, A)."""
        chunk, condition = batch.actions_MBHA, self.condition(batch.obs)
        first = self.velocity_field(torch.zeros_like(chunk), at_time(chunk, 0.0), condition)
        second = self.velocity_field(chunk + (1 - SECOND) * draws["noise"], at_time(chunk, SECOND), condition)
        first_MB = mean_over_valid((first - chunk) ** 2, batch.is_pad_MBH)
        second_MB = mean_over_valid((second - chunk) ** 2, batch.is_pad_MBH)
        loss_MB = first_MB / SECOND**2 + second_MB / (1 - SECOND) ** 2
        return Loss(loss_MB, {"bc_mip_loss": loss_MB, "mip_first_mse": first_MB, "mip_second_mse": second_MB})

    def sample_encoded(self, cond_MBF: Tensor, noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """Two evaluations; float32 (M, B, H, A). 0 * noise keeps the noise an input of exported graphs."""
        condition = self.velocity_field.condition(cond_MBF)
        zero = 0 * noise_MBHA
        first = self.velocity_field(zero, at_time(zero, 0.0), condition)
        # + zero: the exporter would take the batch size of `first` alone for a constant.
        chunk: Tensor = self.velocity_field(first + zero, at_time(zero, SECOND), condition)
        return chunk
