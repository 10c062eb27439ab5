"""Conformance checks for policies and encoders.

    from raybc.testing import check_config
    check_config(MyPolicyConfig)             # or with options: check_config(MyPolicyConfig, my_width=8)

A violated requirement raises an AssertionError that names it. Letters: M members, B batch, T observation steps,
O observation dim, H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from raybc.config import EncoderConfig, PolicyConfig, RunConfig
from raybc.config.component import kind_of
from raybc.config.options import options_in
from raybc.policies.base import Draws, Encoder, Policy, PolicySpec
from raybc.policies.build import build_policy
from raybc.types import Batch, Observation, SampleSetting

MakePolicy = Callable[[int], Policy]
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
#: Gradient steps within which every parameter must have a gradient where gates start at zero: the first moves the
#: output, the second the gates, the third what is behind them.
OPEN_STEPS = 3
SPECS = (
    PolicySpec(low_dim_size=5, action_size=2, horizon=8),
    PolicySpec(low_dim_size=3, action_size=7, horizon=16, obs_steps=2),
)


def check_config(config: type[PolicyConfig] | type[EncoderConfig], **options: Any) -> None:
    """Check a custom policy or encoder, given by its options class.

    options: values of its options, e.g. to keep the networks small. Raises `UserError` if the class cannot be imported
    by its name, and AssertionError for a violated requirement.
    """
    assert dataclasses.is_dataclass(config), f"{config.__name__}: expected a frozen dataclass"
    kind = kind_of(config)
    for name, info in options_in(config).items():
        assert json.loads(json.dumps(info.default)) == info.default, (
            f"{name}: expected a plain value, got {info.default!r}"
        )
        assert isinstance(info.default, int | float | str), f"{name}: expected a number or text, got {info.default!r}"
    if issubclass(config, PolicyConfig):
        run = RunConfig.of(policy=kind, **options)
        assert RunConfig.from_plain(json.loads(json.dumps(run.to_plain())), "json") == run, "options read back differ"
        for spec in SPECS:
            check_policy(lambda members, spec=spec: build_policy(run, spec, members))  # type: ignore[misc]
        policy = build_policy(run, SPECS[0], 1)
        axes = (policy.sample_axes, run.policy.sample_axes)
        assert axes[0] == axes[1], f"sample_axes: the policy says {axes[0]}, its options {axes[1]}"
        return
    run = RunConfig.of(encoder=kind, **options)
    size = run.encoder.smallest
    for image in ((max(size, 8), max(size, 8), 3), (max(size, 9), max(size, 5), 6)):
        check_encoder(lambda members, image=image: run.encoder.build(run.encoder, image, members), image)  # type: ignore[misc]
    by_step = (run.encoder.build(run.encoder, (size, size, 3), 1).by_step, run.encoder.by_step)
    assert by_step[0] == by_step[1], f"by_step: the encoder says {by_step[0]}, its options {by_step[1]}"


def check_encoder(make: Callable[[int], Encoder], image: tuple[int, int, int]) -> None:
    """Check `make(members)`, a pack of encoders. image: (height, width, channels). Raises AssertionError."""

    def built(seeds: Sequence[int]) -> Encoder:
        encoder = make(len(seeds))
        assert isinstance(encoder, Encoder), f"expected a raybc.policies.base.Encoder, got {type(encoder).__name__}"
        encoder.init_members(generators(seeds))
        return encoder

    height, width, channels = image
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 5, 1, height, width, channels), generator=g, dtype=torch.uint8)
    pack = built([3, 4])
    with torch.no_grad():  # as when acting; in training BatchNorm may look at the whole batch
        features = pack(images)
        for m, seed in enumerate([3, 4]):
            alone = built([seed])(images[m : m + 1])
            torch.testing.assert_close(features[m : m + 1], alone, rtol=1e-4, atol=1e-5)
        for i in range(5):
            torch.testing.assert_close(pack(images[:, i : i + 1]), features[:, i : i + 1], rtol=1e-4, atol=1e-5)
    assert features.shape == (2, 5, pack.features), f"expected (2, 5, {pack.features}), got {tuple(features.shape)}"
    assert features.dtype == torch.float32
    for name, parameter in pack.named_parameters():
        assert parameter.shape[0] == 2, f"{name}: expected a leading member axis, got {tuple(parameter.shape)}"
    assert not torch.allclose(features[0, 0], features[0, 1]), "two images have the same features"
    pack(images).square().sum().backward()
    for name, parameter in pack.named_parameters():
        assert parameter.grad is not None, f"{name}: no gradient"


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def start_pack(make: MakePolicy, seeds: Sequence[int]) -> Policy:
    """A pack with its initial weights."""
    policy = make(len(seeds))
    policy.init_members(generators(seeds))
    return policy


def make_pack(make: MakePolicy, seeds: Sequence[int]) -> Policy:
    """A pack with its initial weights; with `Policy.zero_gates`, noise is added to all of them. With gates at zero most
    of the network would have no effect, and checks of it would be empty."""
    policy = start_pack(make, seeds)
    if policy.zero_gates:
        with torch.no_grad():
            for m, generator in enumerate(generators(seeds)):
                for parameter in policy.parameters():
                    parameter[m] += 0.1 * torch.randn(parameter[m].shape, generator=generator)
    return policy


def random_observation(policy: Policy, size: int, seed: int) -> Observation[Tensor]:
    """A random observation with leading axes (M, `size`)."""
    g = torch.Generator().manual_seed(seed)
    spec, m = policy.spec, policy.members
    low_dim = torch.randn(m, size, spec.obs_steps, spec.low_dim_size, generator=g)
    images = {
        name: torch.randint(256, (m, size, spec.obs_steps, *image), generator=g, dtype=torch.uint8)
        for name, image in spec.images
    }
    language = torch.randn(m, size, spec.language, generator=g) if spec.language else None
    return Observation(low_dim, images, language=language)


def random_batch(policy: Policy, size: int, seed: int = 0) -> tuple[Batch, dict[str, Tensor]]:
    """(batch, draws); chunks are unpadded, partly padded, or padded after their first step."""
    g = torch.Generator().manual_seed(seed)
    m, (a, h) = policy.members, (policy.spec.action_size, policy.spec.horizon)
    valid_MB = torch.randint(1, h + 1, (m, size), generator=g)
    valid_MB[:, 0], valid_MB[:, 1] = 1, h
    batch = Batch(
        obs=random_observation(policy, size, seed + 1),
        actions_MBHA=torch.randn(m, size, h, a, generator=g),
        is_pad_MBH=torch.arange(h) >= valid_MB[..., None],
    )
    return batch, {name: s.sample((m, size), g, torch.device("cpu")) for name, s in policy.draws().items()}


def random_request(policy: Policy, size: int, seed: int = 5) -> tuple[Observation[Tensor], Tensor]:
    """(observation, noise) for `Policy.sample`; `size` rows per member."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(policy.members, size, policy.spec.horizon, policy.spec.action_size, generator=g)
    return random_observation(policy, size, seed + 1), noise


def part_of(batch: Batch, index: Any) -> Batch:
    """Members or rows of a batch."""
    return Batch(batch.obs.map(operator.itemgetter(index)), batch.actions_MBHA[index], batch.is_pad_MBH[index])


def part_of_draws(draws: Draws, index: Any) -> dict[str, Tensor]:
    return {name: value[index] for name, value in draws.items()}


def flow(steps: int) -> SampleSetting:
    return SampleSetting(flow_steps=steps)


def check_policy(make: MakePolicy) -> None:
    """Check the requirements of `raybc.policies.base.Policy`; a violation raises an AssertionError that names it.

    make: number of members -> pack with uninitialised weights.
    """
    check_shapes(make)
    check_init(make)
    check_loss_is_a_function(make)
    check_pack(make)
    check_padding_carries_no_loss(make)
    check_sample_is_a_function(make)
    check_every_parameter_learns(make)
    check_acting(make)


def check_shapes(make: MakePolicy) -> None:
    policy = make_pack(make, [0, 1, 2])
    assert isinstance(policy, Policy), f"expected a raybc.policies.base.Policy, got {type(policy).__name__}"
    batch, draws = random_batch(policy, 6)
    loss = policy.loss(batch, draws)
    value = loss.value_MB
    assert value.shape == (3, 6), f"loss: expected (members, batch), got {tuple(value.shape)}"
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()
    for name, metric in loss.metrics.items():
        assert metric.shape == (3, 6), f"metric {name}: expected (members, batch), got {tuple(metric.shape)}"
    obs, start = random_request(policy, 4)
    for steps in (1, 3):
        chunk = policy.sample(obs, start, flow(steps))
        assert chunk.shape == start.shape, f"sample: expected {tuple(start.shape)}, got {tuple(chunk.shape)}"
        assert chunk.dtype == torch.float32


def check_init(make: MakePolicy) -> None:
    """Check that initial weights depend only on the member's generator, not on other members or global state."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pack = dict(start_pack(make, [3, 4, 3]).named_parameters())
    assert torch.equal(before, torch.get_rng_state()), "init_members draws from torch's global generator"
    torch.manual_seed(2)
    alone = {s: dict(start_pack(make, [s]).named_parameters()) for s in (3, 4)}
    for name, parameter in pack.items():
        assert parameter.shape[0] == 3, f"{name}: expected a leading member axis, got {tuple(parameter.shape)}"
        for m, seed in enumerate([3, 4, 3]):
            assert torch.equal(parameter[m], alone[seed][name][0]), f"{name}: member {m} depends on its neighbours"
    assert any(not torch.equal(p[0], p[1]) for p in pack.values()), "two seeds start alike"


def check_loss_is_a_function(make: MakePolicy) -> None:
    """Check that the loss of an example depends only on that example and its draws."""
    policy = make_pack(make, [0, 1])
    batch, draws = random_batch(policy, 5)
    given = (batch.obs.low_dim, batch.actions_MBHA, *draws.values())
    copies = [x.clone() for x in given]
    first = policy.loss(batch, draws).value_MB
    torch.manual_seed(99)
    assert torch.equal(first, policy.loss(batch, draws).value_MB), "loss: something random is not passed in"
    for x, copy in zip(given, copies, strict=True):
        assert torch.equal(x, copy), "loss changes what it was given"
    turned = (slice(None), torch.tensor([3, 1, 4, 0, 2]))
    again = policy.loss(part_of(batch, turned), part_of_draws(draws, turned)).value_MB
    torch.testing.assert_close(again, first[turned], **CLOSE)


def check_pack(make: MakePolicy) -> None:
    """Check that a member of a pack has the same loss, gradients and samples as alone."""
    seeds = [5, 6, 7]
    pack = make_pack(make, seeds)
    batch, draws = random_batch(pack, 8)
    obs, start = random_request(pack, 4)
    loss_MB, chunk = pack.loss(batch, draws).value_MB, pack.sample(obs, start, flow(3))
    loss_MB.mean(1).sum().backward()
    for m, seed in enumerate(seeds):
        alone, one = make_pack(make, [seed]), slice(m, m + 1)
        loss = alone.loss(part_of(batch, one), part_of_draws(draws, one)).value_MB
        loss.mean().backward()
        torch.testing.assert_close(loss_MB[one], loss, **CLOSE)
        seen = obs.map(operator.itemgetter(one))
        torch.testing.assert_close(chunk[one], alone.sample(seen, start[one], flow(3)), rtol=1e-4, atol=1e-5)
        for (name, p), q in zip(pack.named_parameters(), alone.parameters(), strict=True):
            assert p.grad is not None, f"{name}: no gradient"
            assert q.grad is not None
            scale = q.grad.abs().max().item()
            close = torch.allclose(p.grad[m], q.grad[0], rtol=1e-4, atol=1e-5 * scale + 1e-7)
            assert close, f"{name}: the gradient of member {m} depends on its neighbours"


def check_padding_carries_no_loss(make: MakePolicy) -> None:
    """Check that padded actions are not targets of the loss, and that the others have an effect on it.

    Padded actions may be inputs of the network. With all weights at zero the inputs have no effect, so padded actions
    must not change the loss.
    """
    policy = make_pack(make, [0])
    batch, draws = random_batch(policy, 8)
    pad, actions = batch.is_pad_MBH[..., None], batch.actions_MBHA
    assert pad.any()
    valid = dataclasses.replace(batch, actions_MBHA=torch.where(pad, actions, actions + 1))
    first, changed = policy.loss(batch, draws).value_MB, policy.loss(valid, draws).value_MB
    assert not torch.isclose(first, changed).any(), "valid actions are not part of the loss"
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    other = dataclasses.replace(batch, actions_MBHA=torch.where(pad, torch.full_like(actions, 1e3), actions))
    first = policy.loss(batch, draws).value_MB
    assert torch.equal(first, policy.loss(other, draws).value_MB), "padded actions are part of the loss"


def check_sample_is_a_function(make: MakePolicy) -> None:
    policy = make_pack(make, [0, 1])
    obs, start = random_request(policy, 4)
    kept = start.clone()
    first = policy.sample(obs, start, flow(4))
    torch.manual_seed(99)
    assert torch.equal(first, policy.sample(obs, start, flow(4))), "sample: something random is not passed in"
    assert torch.equal(start, kept), "sample changes the noise it was given"
    zero = torch.zeros_like(start)
    assert torch.equal(policy.sample(obs, zero, flow(4)), policy.sample(obs, -zero, flow(4))), "zero noise has no sign"
    for i in range(4):  # an example must not depend on the rest of its batch
        one = (slice(None), slice(i, i + 1))
        seen = obs.map(operator.itemgetter(one))
        torch.testing.assert_close(policy.sample(seen, start[one], flow(4)), first[one], rtol=1e-4, atol=1e-5)


def check_every_parameter_learns(make: MakePolicy) -> None:
    """Check that every parameter has a gradient at the first step; with `Policy.zero_gates`, within `OPEN_STEPS`."""
    policy = start_pack(make, [0, 1])
    batch, draws = random_batch(policy, 8)
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.1)
    missing = {(name, m) for name, _ in policy.named_parameters() for m in range(2)}
    for _ in range(OPEN_STEPS if policy.zero_gates else 1):
        optimiser.zero_grad()
        policy(batch, draws).value_MB.mean(1).sum().backward()
        for name, parameter in policy.named_parameters():
            assert parameter.grad is not None, f"{name}: no gradient"
            missing -= {(name, m) for m in range(2) if parameter.grad[m].abs().max() > 0}
        optimiser.step()
    for name, m in sorted(missing):
        raise AssertionError(f"{name}: the gradient of member {m} is zero")


def check_acting(make: MakePolicy) -> None:
    """Check that `prepare_for_acting` does not change samples."""
    policy = make_pack(make, [0]).eval()
    obs, start = random_request(policy, 4)
    with torch.inference_mode():
        before = policy.sample(obs, start, flow(2))
        policy.prepare_for_acting()
        torch.testing.assert_close(policy.sample(obs, start, flow(2)), before, rtol=1e-4, atol=1e-5)
