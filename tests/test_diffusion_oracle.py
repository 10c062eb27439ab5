"""Diffusion against `diffusers`: the noise that DDPM adds in training, and DDIM's steps when acting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from raybc.config import RunConfig
from raybc.policies.base import ImageEncoders, PolicySpec
from raybc.policies.diffusion import DiffusionPolicy, signal_shares
from raybc.policies.fields.base import Field
from raybc.testing.policies import random_batch, random_request
from raybc.types import SampleSetting

diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
SPEC = PolicySpec(low_dim_size=5, action_size=2, horizon=4)
SCHEDULE = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}


class Formula(Field):
    """A network that is nonlinear in x and t, and records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = list[tuple[Tensor, Tensor]]()

    def init_members(self, generators: Any) -> None:
        """No weights."""

    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Any) -> Tensor:
        self.calls.append((x_MBHA, t_MB1))
        return formula(x_MBHA, t_MB1[..., None])


def formula(x: Tensor, t: Tensor | float) -> Tensor:
    return 1.5 * torch.sin(2 * x + t) + 0.3 * x


def policy(prediction: str = "epsilon", clip: bool = False) -> tuple[DiffusionPolicy, Formula]:
    run = RunConfig.of(
        objective="diffusion", diffusion_prediction=prediction, normalization="min_max" if clip else "mean_std"
    )
    field = Formula()
    return DiffusionPolicy(SPEC, ImageEncoders(SPEC, {}), field, 1, run), field


@pytest.mark.parametrize("steps", [2, 50, 100, 1000])
def test_the_schedule(steps: int) -> None:
    oracle = diffusers.DDPMScheduler(num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2")
    assert signal_shares(steps) == pytest.approx(oracle.alphas_cumprod.tolist(), rel=2e-4, abs=1e-7)


def test_the_network_may_see_the_level_itself() -> None:
    """With diffusion_time index its sinusoids are those of k, as in Diffusion Policy, whatever K is."""
    config = RunConfig.of(objective="diffusion", diffusion_time="index", diffusion_steps=50)
    field = Formula()
    own = DiffusionPolicy(SPEC, ImageEncoders(SPEC, {}), field, 1, config)
    own.sample(*random_request(own, 2), SampleSetting(5))
    levels = torch.cat([time.flatten() for _, time in field.calls])
    torch.testing.assert_close(levels * 1000, torch.tensor([40.0, 30.0, 20.0, 10.0, 0.0]))
    batch, draws = random_batch(own, 4)
    own.loss(batch, draws)
    torch.testing.assert_close(field.calls[-1][1][..., 0] * 1000, (draws["time"] * 50).floor())


def test_noise_is_added_as_ddpm_does() -> None:
    own, field = policy()
    batch, _ = random_batch(own, 64)
    draws = {"noise": torch.randn(batch.actions_MBHA.shape), "time": torch.rand(1, 64)}
    loss = own.loss(batch, draws)
    k = (draws["time"] * 100).long()
    noisy, time = field.calls[0]
    assert torch.equal((time[..., 0] * 100).round().long(), k)
    oracle = diffusers.DDPMScheduler(**SCHEDULE)
    expected = oracle.add_noise(batch.actions_MBHA[0], draws["noise"][0], k[0])
    torch.testing.assert_close(noisy[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(loss.value_MB).all()


@pytest.mark.parametrize("steps", [1, 10, 16, 100])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_samples_are_those_of_ddim(prediction: str, clip: bool, steps: int) -> None:
    own, _ = policy(prediction, clip)
    obs, noise = random_request(own, 5)
    got = own.sample(obs, noise.double(), SampleSetting(steps))
    oracle = diffusers.DDIMScheduler(**SCHEDULE, prediction_type=prediction, clip_sample=clip)
    oracle.alphas_cumprod = torch.tensor(signal_shares(100), dtype=torch.float64)  # compared above, in float32
    oracle.set_timesteps(steps)
    x = noise.double()
    for k in oracle.timesteps:
        x = oracle.step(formula(x, float(k) / 100), int(k), x, eta=0.0).prev_sample
    assert len(oracle.timesteps) == steps
    torch.testing.assert_close(got, x, rtol=1e-7, atol=1e-9)
    assert got.abs().max() > 0.1
