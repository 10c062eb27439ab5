"""Diffusion (DDPM) with DDIM sampling, for any network f(x, t | obs).

    q(x_k | x_0) = N(sqrt(b_k) x_0, (1 - b_k) I),   b_k = prod over i <= k of 1 - beta_i,   k = 0 .. K-1
    beta_i = min(1 - g((i + 1) / K) / g(i / K), 0.999),   g(u) = cos^2((u + 0.008) / 1.008 * pi / 2)
    loss = mean over valid chunk entries of ||f(x_k, t | obs) - y||^2,   y = noise (epsilon) or x_0 (sample)

where t = k / K, or k / 1000 with `--diffusion_time index`, of which the networks' sinusoids are those of k itself.

(Ho et al. 2020, "Denoising Diffusion Probabilistic Models"; Nichol and Dhariwal 2021 for the squared-cosine schedule.)
Sampling visits k = (S-1) r, ..., r, 0 with r = K // S. With the chunk x_0 and the noise e that the network predicts,

    x <- sqrt(b_k') x_0 + sqrt(1 - b_k') e,   k' = k - r  (b_k' = 1 below 0)

(Song et al. 2021, "Denoising Diffusion Implicit Models", eta = 0.) As in Diffusion Policy, x_0 is clipped to [-1, 1]
where actions are scaled to that range. k = K-1 is noise: time runs the other way than in `policies/flow.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from raybc.policies.base import Draws, DrawShape, Loss, mean_over_valid
from raybc.policies.chunk import ChunkPolicy, at_time
from raybc.policies.fields.time import TIME_SCALE
from raybc.types import Batch, SampleSetting

if TYPE_CHECKING:
    from raybc.config import RunConfig


def signal_shares(steps: int) -> list[float]:
    """b_k of the squared-cosine schedule, k = 0 .. K-1."""

    def g(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = [1 - min(1 - g((i + 1) / steps) / g(i / steps), 0.999) for i in range(steps)]
    return list(itertools.accumulate(kept, lambda a, b: a * b))


class DiffusionPolicy(ChunkPolicy):
    """A pack of M diffusion policies."""

    sample_axes = ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble")
    steps: int = 100
    """K."""
    prediction: Literal["epsilon", "sample"] = "epsilon"
    """What the network predicts."""
    clip: bool = False
    """Whether actions are scaled to [-1, 1]."""
    time_unit: int = 100
    """The level at which the network sees the time 1: K, or 1000, where its sinusoids are those of k itself."""

    def configure(self, run: RunConfig) -> None:
        config: Any = run.policy
        self.steps, self.prediction = config.diffusion_steps, config.diffusion_prediction
        self.clip = run.scales_actions_to_one
        self.time_unit = round(TIME_SCALE) if config.diffusion_time == "index" else self.steps

    def draws(self) -> Mapping[str, DrawShape]:
        return {"noise": DrawShape("normal", (self.spec.horizon, self.spec.action_size)), "time": DrawShape("uniform")}

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """The denoising loss, averaged over valid entries. draws: noise (M, B, H, A), time (M, B)."""
        chunk, noise = batch.actions_MBHA, draws["noise"]
        k_MB = (draws["time"] * self.steps).long().clamp_max(self.steps - 1)
        share = torch.tensor(signal_shares(self.steps), device=chunk.device, dtype=torch.float64)[k_MB, None, None]
        noisy = share.sqrt().to(chunk.dtype) * chunk + (1 - share).sqrt().to(chunk.dtype) * noise
        time_MB1 = k_MB[..., None].to(chunk.dtype) / self.time_unit
        predicted = self.velocity_field(noisy, time_MB1, self.condition(batch.obs))
        target = noise if self.prediction == "epsilon" else chunk
        loss_MB = mean_over_valid((predicted - target) ** 2, batch.is_pad_MBH)
        return Loss(loss_MB, {"bc_diffusion_loss": loss_MB})

    def sample_encoded(self, cond_MBF: Tensor, noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """Denoise with `flow_steps` steps of DDIM; float32 (M, B, H, A)."""
        condition = self.velocity_field.condition(cond_MBF)
        shares, x = signal_shares(self.steps), noise_MBHA
        stride = self.steps // setting.flow_steps
        for k in reversed(range(0, stride * setting.flow_steps, stride)):
            share, following = shares[k], shares[k - stride] if k >= stride else 1.0
            predicted = self.velocity_field(x, at_time(x, k / self.time_unit), condition)
            if self.prediction == "epsilon":
                noise, chunk = predicted, (x - math.sqrt(1 - share) * predicted) / math.sqrt(share)
            else:
                noise, chunk = (x - math.sqrt(share) * predicted) / math.sqrt(1 - share), predicted
            chunk = chunk.clamp(-1, 1) if self.clip else chunk
            x = math.sqrt(following) * chunk + math.sqrt(1 - following) * noise
        return x
