"""Flow matching against its formulas: an independent implementation, exact fields, and numerical gradients.

Letters: M members, B batch, I inputs, O outputs, H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from raybc.config import RunConfig
from raybc.policies import activations
from raybc.policies.base import ImageEncoders, PolicySpec
from raybc.policies.build import build_policy
from raybc.policies.fields.base import Field
from raybc.policies.fields.mlp import FREQUENCIES, MLPField
from raybc.policies.flow import FlowPolicy
from raybc.policies.packed import PackedLinear, PackedMLP, fourier_features
from raybc.testing.policies import (
    CLOSE,
    check_policy,
    generators,
    make_pack,
    random_batch,
    random_request,
)
from raybc.types import Batch, Observation, SampleSetting

torch.set_num_threads(1)
SPEC = PolicySpec(low_dim_size=5, action_size=2, horizon=4)


def flow(members: int, spec: PolicySpec = SPEC, **changes: Any) -> FlowPolicy:
    run = RunConfig.of(**{"hidden_width": 16, "hidden_depth": 2, **changes})
    policy = build_policy(run, spec, members)
    assert isinstance(policy, FlowPolicy)
    return policy


class KnownField(Field):
    """A velocity field that is a formula of (x, t)."""

    def __init__(self, formula: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Nothing to begin with."""

    def forward(self, x_MBHA: torch.Tensor, t_MB1: torch.Tensor, condition: Any) -> torch.Tensor:
        return self.formula(x_MBHA, t_MB1)


def flow_along(formula: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], members: int = 1) -> FlowPolicy:
    return FlowPolicy(SPEC, ImageEncoders(SPEC, {}), KnownField(formula), members)


def as_double(batch: Batch) -> Batch:
    obs, actions = batch.obs.map(lambda array: array.double()), batch.actions_MBHA.double()
    return dataclasses.replace(batch, obs=obs, actions_MBHA=actions)


@pytest.mark.parametrize("fourier", [False, True])
@pytest.mark.parametrize("spec", [SPEC, PolicySpec(1, 1, 3), PolicySpec(3, 7, 2), PolicySpec(3, 2, 2, 3)], ids=str)
def test_conformance(spec: PolicySpec, fourier: bool) -> None:
    check_policy(lambda members: flow(members, spec, use_fourier_features=fourier))


# The loss


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def reference_field(policy: FlowPolicy, m: int, obs: np.ndarray, x: np.ndarray, t: float) -> np.ndarray:
    """The velocity field of one member at one example, in float64 and plain numpy. obs: (T, O)."""
    time, field = [t], policy.velocity_field
    assert isinstance(field, MLPField)
    if field.fourier:
        angles = [math.pi * 2**k * t for k in range(FREQUENCIES)]
        time = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    h = np.concatenate([obs.ravel(), x.ravel(), time])
    layers: list[Any] = list(field.layers)
    for i, layer in enumerate(layers):
        h = h @ layer.weights_MIO[m].detach().double().numpy() + layer.bias_M1O[m, 0].detach().double().numpy()
        if i < len(layers) - 1:
            h = gelu(h)
    return h.reshape(x.shape)


@pytest.mark.parametrize("obs_steps", [1, 3])
@pytest.mark.parametrize("fourier", [False, True])
def test_loss_is_the_formula(fourier: bool, obs_steps: int) -> None:
    """mean over valid (step, dimension) entries of (v(x_t, t) - (x_1 - x_0))^2, entry by entry."""
    spec = dataclasses.replace(SPEC, obs_steps=obs_steps)
    policy = make_pack(lambda members: flow(members, spec, use_fourier_features=fourier), [0, 1])
    assert isinstance(policy, FlowPolicy)
    batch, draws = random_batch(policy, 7)
    got = policy.loss(batch, draws)
    obs, actions = batch.obs.low_dim.double().numpy(), batch.actions_MBHA.double().numpy()
    assert obs.shape == (2, 7, obs_steps, 5)
    pads, x_0s = batch.is_pad_MBH.numpy(), draws["noise"].double().numpy()
    for m in range(2):
        for b in range(7):
            t, x_0, x_1 = float(draws["time"][m, b]), x_0s[m, b], actions[m, b]
            v = reference_field(policy, m, obs[m, b], (1 - t) * x_0 + t * x_1, t)
            errors = [
                (v[h, a] - (x_1[h, a] - x_0[h, a])) ** 2
                for h in range(SPEC.horizon)
                if not pads[m, b, h]
                for a in range(SPEC.action_size)
            ]
            assert got.value_MB[m, b].item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    assert list(got.metrics) == ["bc_flow_loss"]
    assert torch.equal(got.metrics["bc_flow_loss"], got.value_MB)


def test_padded_entries_are_left_out_and_not_counted() -> None:
    """A field of zero has the loss |x_1 - x_0|^2 of the valid entries, whatever stands in the others."""
    policy = flow_along(lambda x, t: torch.zeros_like(x))
    x_1 = torch.ones(1, 4, 4, 2)
    for b in range(4):
        x_1[0, b, b + 1 :] = 1e6
    pad = torch.arange(4) > torch.arange(4)[:, None]
    draws = {"noise": torch.zeros(1, 4, 4, 2), "time": torch.full((1, 4), 0.5)}
    loss = policy.loss(Batch(Observation(torch.zeros(1, 4, 1, 5)), x_1, pad[None]), draws)
    assert loss.value_MB.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_padded_actions_change_nothing_where_steps_are_apart() -> None:
    """For a field whose step h sees x_t at h alone, padded actions change neither loss nor gradient."""
    scale = torch.tensor(0.3, requires_grad=True)
    policy = flow_along(lambda x, t: scale * x + t[..., None])
    batch, draws = random_batch(policy, 8)
    pad = batch.is_pad_MBH[..., None]
    other = dataclasses.replace(batch, actions_MBHA=torch.where(pad, batch.actions_MBHA + 7, batch.actions_MBHA))
    results = []
    for b in (batch, other):
        loss = policy.loss(b, draws).value_MB
        results.append((loss, *torch.autograd.grad(loss.sum(), scale)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_the_perfect_field_has_no_loss() -> None:
    """One data point: v = (x_1 - x_t) / (1 - t) is x_1 - x_0 on every path."""
    policy = flow_along(lambda x, t: (target - x) / (1 - t[..., None]))
    batch, draws = random_batch(policy, 8)
    exact = as_double(batch)
    target = exact.actions_MBHA
    draws = {"noise": draws["noise"].double(), "time": 0.9 * draws["time"].double()}
    assert policy.loss(exact, draws).value_MB.max() < 1e-20


def test_gradient_is_the_numerical_one() -> None:
    spec = PolicySpec(low_dim_size=2, action_size=1, horizon=2)
    policy = make_pack(
        lambda members: flow(members, spec, hidden_width=3, hidden_depth=1, use_fourier_features=True), [0, 1]
    ).double()
    batch, single = random_batch(policy, 3)
    double, draws = as_double(batch), {name: value.double() for name, value in single.items()}
    names = [name for name, _ in policy.named_parameters()]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, values, strict=True))
        found: torch.Tensor = torch.func.functional_call(policy, state, (double, draws)).value_MB
        return found

    parameters = [p.detach().clone().requires_grad_() for p in policy.parameters()]
    assert torch.autograd.gradcheck(loss, parameters)


# Sampling


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 100])
def test_euler_ends_at_the_one_data_point(steps: int) -> None:
    """The exact field of one data point points straight at it: any number of steps ends there, from any noise."""
    target = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(1)).double()
    times: list[float] = []

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (2, 1, 1), "all rows share the time"
        times.append(t.unique().item())
        return (target - x) / (1 - t[..., None])

    policy = flow_along(field, members=2)
    obs, noise = random_request(policy, 3)
    end = policy.sample(obs.map(lambda array: array.double()), noise.double(), SampleSetting(steps))
    torch.testing.assert_close(end, target, rtol=0, atol=1e-12)
    np.testing.assert_allclose(times, np.arange(steps) / steps)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_euler_of_known_fields(steps: int) -> None:
    def end(formula: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return flow_along(formula).sample(obs, noise, SampleSetting(steps))

    obs, noise = random_request(flow_along(lambda x, t: x), 3)
    obs, noise = obs.map(lambda array: array.double()), noise.double()
    torch.testing.assert_close(end(lambda x, t: torch.full_like(x, 2.5)), noise + 2.5)
    torch.testing.assert_close(end(lambda x, t: -x), noise * (1 - 1 / steps) ** steps)
    torch.testing.assert_close(end(lambda x, t: 2 * t[..., None].expand_as(x)), noise + (steps - 1) / steps)


def test_sample_is_the_formula() -> None:
    policy = make_pack(lambda members: flow(members, use_fourier_features=True), [0, 1])
    assert isinstance(policy, FlowPolicy)
    obs, noise = random_request(policy, 2)
    got = policy.sample(obs, noise, SampleSetting(3))
    for m in range(2):
        for b in range(2):
            x = noise[m, b].double().numpy()
            for i in range(3):
                x = x + reference_field(policy, m, obs.low_dim[m, b].double().numpy(), x, i / 3) / 3
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
    mlp = PackedMLP(2, 3, 2, (8, 8, 8))
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
        fast = activations.gelu(x)
    assert fast.dtype == dtype
    torch.testing.assert_close(fast.double(), wanted, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-13)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(activations.gelu(x).double(), wanted, rtol=0, atol=tolerance)
    slopes = []
    for function in (activations.gelu, functools.partial(torch.nn.functional.gelu, approximate="tanh")):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
        slopes.append(slope)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=tolerance * 5)
