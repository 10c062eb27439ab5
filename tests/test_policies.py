"""Flow matching against its formulas: an independent implementation, exact fields, and numerical gradients.

Letters: M members, B batch, I inputs, O outputs, H chunk, A action dim.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

from raybc.policies import nets
from raybc.policies.base import PolicyShape
from raybc.policies.flow import FREQUENCIES, FlowPolicy
from raybc.policies.packed import PackedLinear, PackedMLP, fourier_features
from raybc.testing.policies import (
    CLOSE,
    check_policy,
    generators,
    make_pack,
    random_batch,
    random_observations,
)
from raybc.types import Batch

torch.set_num_threads(1)
SHAPE = PolicyShape(obs_size=5, action_size=2, horizon=4)


def flow(members: int, shape: PolicyShape = SHAPE, **changes: Any) -> FlowPolicy:
    return FlowPolicy(shape, **{"width": 16, "depth": 2, "use_fourier_features": False, "members": members, **changes})


@pytest.mark.parametrize("fourier", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, PolicyShape(1, 1, 3), PolicyShape(3, 7, 2)], ids=str)
def test_conformance(shape: PolicyShape, fourier: bool) -> None:
    check_policy(lambda members: flow(members, shape, use_fourier_features=fourier))


# The loss


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def reference_field(policy: FlowPolicy, m: int, obs: np.ndarray, x: np.ndarray, t: float) -> np.ndarray:
    """The vector field of one member at one example, in float64 and plain numpy."""
    time = [t]
    if policy.use_fourier_features:
        angles = [math.pi * 2**k * t for k in range(FREQUENCIES)]
        time = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    h = np.concatenate([obs, x.ravel(), time])
    layers = list(policy.field.layers)
    for i, layer in enumerate(layers):
        h = h @ layer.weights_MIO[m].detach().double().numpy() + layer.bias_M1O[m, 0].detach().double().numpy()
        if i < len(layers) - 1:
            h = gelu(h)
    return h.reshape(x.shape)


@pytest.mark.parametrize("fourier", [False, True])
def test_loss_is_the_formula(fourier: bool) -> None:
    """mean over valid (step, dimension) entries of (v(x_t, t) - (x_1 - x_0))^2, entry by entry."""
    policy = make_pack(lambda members: flow(members, use_fourier_features=fourier), [0, 1])
    batch, noise, time = random_batch(policy, 7)
    got = policy.loss(batch, noise, time)
    obs, actions = batch.obs.low_dim.double().numpy(), batch.actions_MBHA.double().numpy()
    pads, x_0s = batch.is_pad_MBH.numpy(), noise.view_as(batch.actions_MBHA).double().numpy()
    for m in range(2):
        for b in range(7):
            t, x_0, x_1 = float(time[m, b]), x_0s[m, b], actions[m, b]
            v = reference_field(policy, m, obs[m, b], (1 - t) * x_0 + t * x_1, t)
            errors = [
                (v[h, a] - (x_1[h, a] - x_0[h, a])) ** 2
                for h in range(SHAPE.horizon)
                if not pads[m, b, h]
                for a in range(SHAPE.action_size)
            ]
            assert got[m, b].item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_padded_entries_are_left_out_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field of zero has the loss |x_1 - x_0|^2 of the valid entries, whatever stands in the others."""
    policy = flow(1)
    monkeypatch.setattr(policy, "velocity", lambda obs, x, t: torch.zeros_like(x))
    x_1 = torch.ones(1, 4, 4, 2)
    for b in range(4):
        x_1[0, b, b + 1 :] = 1e6
    pad = torch.arange(4) > torch.arange(4)[:, None]
    noise = torch.zeros(1, 4 * 4 * 2)
    loss = policy.loss(Batch(torch.zeros(1, 4, 5), x_1, pad[None]), noise, torch.full((1, 4), 0.5))
    assert loss.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_padded_actions_change_nothing_where_steps_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a field whose step h sees x_t at h alone, padded actions change neither loss nor gradient."""
    policy = flow(1)
    scale = torch.tensor(0.3, requires_grad=True)
    monkeypatch.setattr(policy, "velocity", lambda obs, x, t: scale * x + t[..., None])
    batch, noise, time = random_batch(policy, 8)
    pad = batch.is_pad_MBH[..., None]
    other = Batch(batch.obs.low_dim, torch.where(pad, batch.actions_MBHA + 7, batch.actions_MBHA), batch.is_pad_MBH)
    results = []
    for b in (batch, other):
        loss = policy.loss(b, noise, time)
        results.append((loss, *torch.autograd.grad(loss.sum(), scale)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_the_perfect_field_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """One data point: v = (x_1 - x_t) / (1 - t) is x_1 - x_0 on every path."""
    policy = flow(1)
    batch, noise, time = random_batch(policy, 8)
    target = batch.actions_MBHA.double()
    exact = Batch(batch.obs.low_dim.double(), target, batch.is_pad_MBH)
    monkeypatch.setattr(policy, "velocity", lambda obs, x, t: (target - x) / (1 - t[..., None]))
    assert policy.loss(exact, noise.double(), 0.9 * time.double()).max() < 1e-20


def test_gradient_is_the_numerical_one() -> None:
    shape = PolicyShape(2, 1, 2)
    policy = make_pack(
        lambda members: flow(members, shape, width=3, depth=1, use_fourier_features=True), [0, 1]
    ).double()
    batch, noise, time = random_batch(policy, 3)
    double = Batch(batch.obs.low_dim.double(), batch.actions_MBHA.double(), batch.is_pad_MBH)
    names = [name for name, _ in policy.named_parameters()]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(LossModule(policy), {f"policy.{k}": v for k, v in state.items()}, (double,))

    class LossModule(torch.nn.Module):
        def __init__(self, policy: FlowPolicy) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, batch: Batch) -> torch.Tensor:
            return self.policy.loss(batch, noise.double(), time.double())

    parameters = [p.detach().clone().requires_grad_() for p in policy.parameters()]
    assert torch.autograd.gradcheck(loss, parameters)


# Sampling


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 100])
def test_euler_ends_at_the_one_data_point(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The exact field of one data point points straight at it: any number of steps ends there, from any noise."""
    policy = flow(2)
    obs, noise, _ = random_observations(policy, 3)
    target = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(1)).double()
    times: list[float] = []

    def field(obs: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (2, 3, 1)
        times.append(t.unique().item())
        return (target - x) / (1 - t[..., None])

    monkeypatch.setattr(policy, "velocity", field)
    torch.testing.assert_close(policy.sample(obs.double(), noise.double(), steps), target, rtol=0, atol=1e-12)
    np.testing.assert_allclose(times, np.arange(steps) / steps)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_euler_of_known_fields(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    policy = flow(1)
    obs, noise = (x.double() for x in random_observations(policy, 3)[:2])
    monkeypatch.setattr(policy, "velocity", lambda obs, x, t: torch.full_like(x, 2.5))
    torch.testing.assert_close(policy.sample(obs, noise, steps), noise + 2.5)
    monkeypatch.setattr(policy, "velocity", lambda obs, x, t: -x)
    torch.testing.assert_close(policy.sample(obs, noise, steps), noise * (1 - 1 / steps) ** steps)
    monkeypatch.setattr(policy, "velocity", lambda obs, x, t: 2 * t[..., None].expand_as(x))
    torch.testing.assert_close(policy.sample(obs, noise, steps), noise + (steps - 1) / steps)


def test_sample_is_the_formula() -> None:
    policy = make_pack(lambda members: flow(members, use_fourier_features=True), [0, 1])
    obs, noise, _ = random_observations(policy, 2)
    got = policy.sample(obs, noise, 3)
    for m in range(2):
        for b in range(2):
            x = noise[m, b].double().numpy()
            for i in range(3):
                x = x + reference_field(policy, m, obs[m, b].double().numpy(), x, i / 3) / 3
            np.testing.assert_allclose(got[m, b].detach().numpy(), x, rtol=1e-4, atol=1e-5)


# Networks


def test_packed_linear_is_a_linear_layer_for_each_member() -> None:
    layer = PackedLinear(3, 4, 5)
    for m, generator in enumerate(generators([0, 1, 2])):
        layer.init_member(m, generator)
    with torch.no_grad():
        layer.bias_M1O.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    y = layer(x)
    for m in range(3):
        expected = torch.nn.functional.linear(x[m], layer.weights_MIO[m].T, layer.bias_M1O[m, 0])
        torch.testing.assert_close(y[m], expected, **CLOSE)


def test_initial_weights_are_lecun_normal() -> None:
    layer = PackedLinear(1, 400, 300)
    layer.init_member(0, torch.Generator().manual_seed(0))
    assert not layer.bias_M1O.any()
    weights = layer.weights_MIO.detach()
    assert abs(weights.mean().item()) < 1e-3
    assert weights.std().item() * math.sqrt(400) == pytest.approx(1, abs=0.01)
    assert (weights * math.sqrt(400)).pow(4).mean().item() == pytest.approx(3, abs=0.1), "normal"


def test_mlp_is_the_ordinary_one() -> None:
    mlp = PackedMLP(2, 3, 2, width=8, depth=3)
    mlp.init_members(generators([0, 1]))
    assert [tuple(layer.weights_MIO.shape) for layer in mlp.layers] == [(2, 3, 8), (2, 8, 8), (2, 8, 8), (2, 8, 2)]
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    for m in range(2):
        modules: list[torch.nn.Module] = []
        for layer in mlp.layers:
            linear = torch.nn.Linear(*layer.weights_MIO.shape[1:])
            with torch.no_grad():
                linear.weight.copy_(layer.weights_MIO[m].T)
                linear.bias.copy_(layer.bias_M1O[m, 0])
            modules += [linear, torch.nn.GELU(approximate="tanh")]
        torch.testing.assert_close(mlp(x)[m], torch.nn.Sequential(*modules[:-1])(x[m]), **CLOSE)


def test_fourier_features() -> None:
    t = np.linspace(0, 1, 11)
    got = fourier_features(torch.from_numpy(t)[:, None], 4).numpy()
    angles = np.pi * t[:, None] * np.array([1, 2, 4, 8])
    np.testing.assert_allclose(got, np.concatenate([np.cos(angles), np.sin(angles)], axis=1), atol=1e-12)
    assert fourier_features(torch.zeros(2, 3, 1), 8).shape == (2, 3, 16)
    distances = np.linalg.norm(got[:, None] - got[None], axis=-1) + 9 * np.eye(11)
    assert distances.min() > 0.1, "different times look different, 0 and 1 too"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_both_forms_of_gelu_are_one_function(dtype: torch.dtype) -> None:
    x = torch.linspace(-30, 30, 100_001, dtype=dtype)
    wanted = torch.nn.functional.gelu(x.double(), approximate="tanh")
    with torch.no_grad():
        fast = nets.gelu(x)
    assert fast.dtype == dtype
    torch.testing.assert_close(fast.double(), wanted, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-13)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(nets.gelu(x).double(), wanted, rtol=0, atol=tolerance)
    slopes = []
    for function in (nets.gelu, functools.partial(torch.nn.functional.gelu, approximate="tanh")):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
        slopes.append(slope)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=tolerance * 5)
