"""The transformer of packs against the same network of torch.nn, and its options.

Letters: M members, B batch, H chunk, A action dim, F features of the observation.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.plain_transformer import PlainTransformer, copy_weights
from raybc.config import RunConfig
from raybc.policies.base import PolicySpec
from raybc.policies.build import build_policy
from raybc.policies.fields.transformer import TransformerField
from raybc.testing.policies import make_pack, random_request
from raybc.types import SampleSetting, UserError

torch.set_num_threads(1)
ACTIONS, HORIZON, BATCH, OBS = 3, 5, 7, (2, 4)
SMALL: dict[str, Any] = {"transformer_layers": 2, "transformer_heads": 2, "transformer_width": 16}


def field(members: int = 1, image: int = 0, layers: int = 2, heads: int = 4, width: int = 16) -> TransformerField:
    """With noise on all weights, so that no gate is closed. image: number of features of an image, 0 for none."""
    images = (("camera", (8, 8, 3)),) if image else ()
    spec = PolicySpec(OBS[1], ACTIONS, HORIZON, OBS[0], images)
    made = TransformerField(members, spec, spec.obs_size + image, layers=layers, heads=heads, width=width)
    made.init_members([torch.Generator().manual_seed(m) for m in range(members)])
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.double()


def inputs(members: int, image: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, t and features."""
    torch.manual_seed(1)
    x = torch.randn(members, BATCH, HORIZON, ACTIONS, dtype=torch.float64, requires_grad=True)
    features = torch.randn(members, BATCH, OBS[0] * OBS[1] + image, dtype=torch.float64, requires_grad=True)
    return x, torch.rand(members, BATCH, 1, dtype=torch.float64), features


@pytest.mark.parametrize("image", [0, 6], ids=["states", "image"])
@pytest.mark.parametrize("members", [1, 2])
def test_it_is_the_plain_network(members: int, image: int) -> None:
    """Outputs and gradients, in float64."""
    torch.manual_seed(0)
    plains = [
        PlainTransformer(ACTIONS, HORIZON, OBS, OBS[0] * OBS[1] + image, 2, 4, 16).double() for _ in range(members)
    ]
    ours = field(members, image)
    for m, plain in enumerate(plains):
        copy_weights(ours, m, plain)
    x, t, features = inputs(members, image)
    got = ours(x, t, ours.condition(features))
    wanted = torch.stack([plain(x[m], t[m, :, 0], features[m]) for m, plain in enumerate(plains)])
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)
    weight = torch.randn_like(x)
    gradients = [torch.autograd.grad((y * weight).sum(), (x, features)) for y in (got, wanted)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, ours.condition(features)), wanted, rtol=1e-9, atol=1e-11)
        shared = ours(x, t[:, :1], ours.condition(features))
        torch.testing.assert_close(shared, ours(x, t[:, :1].expand_as(t), ours.condition(features)))


def test_positions_matter() -> None:
    """Chunk steps in another order are another chunk, and observation steps in another order another observation."""
    net = field()
    x, t, features = (v.detach() for v in inputs(1))
    y = net(x, t, net.condition(features))
    order = torch.tensor([1, 0, 2, 3, 4])
    turned = net(x[:, :, order], t, net.condition(features))
    assert (turned - y[:, :, order]).abs().max() > 1e-2
    swapped = features.unflatten(-1, OBS).flip(2).flatten(2)
    assert (net(x, t, net.condition(swapped)) - y).abs().max() > 1e-2
    net.position_M1HD.data.zero_()  # positions alone make the difference
    y = net(x, t, net.condition(features))
    torch.testing.assert_close(net(x[:, :, order], t, net.condition(features)), y[:, :, order])


def test_every_step_sees_every_step_and_observation() -> None:
    net = field()
    x, t, features = inputs(1)
    y = net(x, t, net.condition(features))
    for step in range(HORIZON):
        seen, observed = torch.autograd.grad(y[0, 0, step].sum(), (x, features), retain_graph=True)
        assert (seen[0, 0].abs().sum(-1) > 0).all()
        assert (observed[0, 0] != 0).all()
        assert not seen[0, 1:].any(), "an example depends on others"


def test_it_starts_as_zero_with_open_layers() -> None:
    """adaLN-zero: the first output is 0 whatever the input; every layer is the identity."""
    policy = build_policy(RunConfig.of(policy="flow_transformer", **SMALL), PolicySpec(4, 2, 8), 2)
    policy.init_members([torch.Generator().manual_seed(m) for m in range(2)])
    obs, noise = random_request(policy, 3)
    assert torch.equal(policy.sample(obs, noise, SampleSetting(flow_steps=3)), noise)
    net: Any = policy.velocity_field
    layer, x = net.layers[0], torch.randn(2, 3, 8, 16)
    seen = net.condition(obs.low_dim.flatten(2))
    modulation = seen.modulation_MBS[..., : 6 * 16].unsqueeze(2)
    assert torch.equal(layer(x, modulation, seen.keys[0], seen.values[0]), x)


def test_observations_are_processed_once_per_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunConfig.of(policy="flow_transformer", solver="heun", **SMALL)
    policy = make_pack(lambda members: build_policy(run, PolicySpec(4, 2, 8, 2), members), [0])
    net: Any = policy.velocity_field
    calls = dict.fromkeys(("tokens", "seen", "observe", "modulate", "act"), 0)
    for name in calls:

        def count(*_: Any, name: str = name) -> None:
            calls[name] += 1

        getattr(net, name).register_forward_hook(count)
    policy.sample(*random_request(policy, 3), SampleSetting(flow_steps=5, solver="heun"))
    assert calls == {"tokens": 1, "seen": 1, "observe": 1, "modulate": 1, "act": 10}


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (8, 4, 256)),
        ({"transformer_size": "tiny"}, (4, 4, 128)),
        ({"transformer_size": "base"}, (12, 12, 768)),
        ({"transformer_size": "base", "transformer_layers": 8}, (8, 12, 768)),
        ({"transformer_heads": 6, "transformer_width": 384}, (8, 6, 384)),
    ],
)
def test_sizes(options: dict[str, Any], sizes: tuple[int, int, int]) -> None:
    run = RunConfig.of(policy="flow_transformer", **options)
    run.validate()
    assert run.policy.sizes == sizes  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transformer_heads": 3}, "transformer_heads: expected a divisor of the width 256, got 3; use 2 or 4"),
        ({"transformer_width": 7}, "transformer_heads: expected a divisor of the width 7, got 4; use 1 or 7"),
        ({"transformer_heads": 512}, "transformer_heads: expected a divisor of the width 256, got 512; use 256"),
        ({"transformer_layers": -1}, "transformer_layers: expected at least 0, got -1"),
        ({"transformer_size": "large"}, "transformer_size: expected one of tiny, small, base, got 'large'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=rf"run\.{words}"):
        RunConfig.of(policy="flow_transformer", **options).validate()
