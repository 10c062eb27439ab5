"""The multilayer perceptrons of packs against the same networks of torch.nn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.plain_mlp import PlainMLP, copy_weights
from raybc.config import RunConfig
from raybc.policies.base import PolicySpec
from raybc.policies.build import build_policy
from raybc.policies.fields.mlp import MLPField, ResidualMLPField
from raybc.policies.packed import PackedResidualMLP
from raybc.testing.policies import make_pack, random_request
from raybc.types import SampleSetting, UserError

torch.set_num_threads(1)
ACTIONS, HORIZON, FEATURES, BATCH, WIDTH, DEPTH = 3, 4, 10, 7, 16, 2


@pytest.mark.parametrize("kind", [MLPField, ResidualMLPField])
@pytest.mark.parametrize("members", [1, 2])
def test_it_is_the_plain_network(members: int, kind: type[MLPField] | type[ResidualMLPField]) -> None:
    """Outputs and gradients, in float64."""
    torch.manual_seed(0)
    residual = kind is ResidualMLPField
    plains = [PlainMLP(ACTIONS, HORIZON, FEATURES, WIDTH, DEPTH, residual).double() for _ in range(members)]
    sizes = (members, FEATURES, HORIZON, ACTIONS)
    made: MLPField | ResidualMLPField = (
        ResidualMLPField(*sizes, width=WIDTH, depth=DEPTH, fourier=False)
        if residual
        else MLPField(*sizes, widths=(WIDTH,) * DEPTH, fourier=False)
    )
    field = made.double()
    for m, plain in enumerate(plains):
        copy_weights(field, m, plain)
    x = torch.randn(members, BATCH, HORIZON, ACTIONS, dtype=torch.float64, requires_grad=True)
    t = torch.rand(members, BATCH, 1, dtype=torch.float64)
    features = torch.randn(members, BATCH, FEATURES, dtype=torch.float64, requires_grad=True)
    ours = field(x, t, field.condition(features))
    theirs = torch.stack([plain(x[m], t[m, :, 0], features[m]) for m, plain in enumerate(plains)])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    weight = torch.randn_like(x)
    gradients = [torch.autograd.grad((y * weight).sum(), (x, features)) for y in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-10)


def test_observations_are_processed_once_per_chunk() -> None:
    run = RunConfig.of(hidden_block="residual", hidden_width=WIDTH, hidden_depth=DEPTH)
    policy = make_pack(lambda members: build_policy(run, PolicySpec(4, 2, 8, 2), members), [0])
    net: Any = policy.velocity_field
    calls = {"observe": 0, "first": 0}
    for name in calls:

        def count(*_: Any, name: str = name) -> None:
            calls[name] += 1

        getattr(net, name).register_forward_hook(count)
    policy.sample(*random_request(policy, 3), SampleSetting(flow_steps=5))
    assert calls == {"observe": 1, "first": 5}


def test_regression_has_residual_blocks() -> None:
    run = RunConfig.of(policy="regression", hidden_block="residual", hidden_width=WIDTH, hidden_depth=DEPTH)
    policy: Any = build_policy(run, PolicySpec(4, 2, 8), 1)
    assert isinstance(policy.network, PackedResidualMLP)
    assert [tuple(up.weights_MIO.shape) for up in policy.network.up] == [(1, WIDTH, 4 * WIDTH)] * DEPTH
    assert policy.network.observe is None


def test_the_default_block_is_plain_and_no_part_of_the_identity() -> None:
    assert RunConfig().run_id("x") == RunConfig.of(hidden_block="plain").run_id("x")
    assert RunConfig().run_id("x") != RunConfig.of(hidden_block="residual").run_id("x")
    assert isinstance(build_policy(RunConfig(), PolicySpec(4, 2, 8), 1).velocity_field, MLPField)


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(UserError, match=r"run\.hidden_block: expected one of plain, residual, got 'resnet'"):
        RunConfig.of(hidden_block="resnet")
