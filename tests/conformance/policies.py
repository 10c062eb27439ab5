"""What every policy keeps. A new one joins with one line: `check_policy(make)`.

`make(members)` builds a pack with uninitialised weights. Letters: M members, B batch, O observation dim, H chunk, A
action dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from raybc.types import Batch

MakePolicy = Callable[[int], Any]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def make_pack(make: MakePolicy, seeds: Sequence[int]) -> Any:
    policy = make(len(seeds))
    policy.init_members(generators(seeds))
    return policy


def random_batch(policy: Any, size: int, seed: int = 0) -> tuple[Batch, Tensor, Tensor]:
    """(batch, noise, time) with chunks that are whole, partly padded, and padded but for their first step."""
    g = torch.Generator().manual_seed(seed)
    m, (o, a, h) = policy.members, (policy.spec.obs_size, policy.spec.action_size, policy.spec.horizon)
    valid_MB = torch.randint(1, h + 1, (m, size), generator=g)
    valid_MB[:, 0], valid_MB[:, 1] = 1, h
    batch = Batch(
        obs_MBO=torch.randn(m, size, o, generator=g),
        actions_MBHA=torch.randn(m, size, h, a, generator=g),
        is_pad_MBH=torch.arange(h) >= valid_MB[..., None],
        images=random_images(policy, size, seed + 1),
    )
    normal, uniform = policy.draw_size(size)
    return batch, torch.randn(m, normal, generator=g), torch.rand(m, uniform, generator=g)


def random_images(policy: Any, size: int, seed: int) -> dict[str, Tensor]:
    """uint8 (M, B, 1, height, width, channels), channels of all observation steps."""
    g = torch.Generator().manual_seed(seed)
    shapes = {name: (policy.members, size, 1, *image) for name, image in policy.spec.images}
    return {name: torch.randint(256, shape, generator=g, dtype=torch.uint8) for name, shape in shapes.items()}


def part(batch: Batch, index: Any) -> Batch:
    """Some members, or some rows, of a batch."""
    return Batch(
        batch.obs.low_dim[index],
        batch.actions_MBHA[index],
        batch.is_pad_MBH[index],
        {name: images[index] for name, images in batch.images.items()},
    )


def random_observations(policy: Any, size: int, seed: int = 5) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(observations, noise, images)."""
    g = torch.Generator().manual_seed(seed)
    shape, m = policy.spec, policy.members
    return (
        torch.randn(m, size, shape.obs_size, generator=g),
        torch.randn(m, size, shape.horizon, shape.action_size, generator=g),
        random_images(policy, size, seed + 1),
    )


def check_policy(make: MakePolicy) -> None:
    """Fails with an AssertionError that names the promise of `raybc.policies.base.Policy` which is broken."""
    check_shapes(make)
    check_init(make)
    check_loss_is_a_function(make)
    check_pack(make)
    check_padding_carries_no_loss(make)
    check_sample_is_a_function(make)
    check_every_parameter_learns(make)


def check_shapes(make: MakePolicy) -> None:
    policy = make_pack(make, [0, 1, 2])
    batch, noise, time = random_batch(policy, 6)
    loss = policy.loss(batch, noise, time)
    assert loss.shape == (3, 6), f"loss: expected (members, batch), got {tuple(loss.shape)}"
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    obs, start, seen = random_observations(policy, 4)
    for steps in (1, 3):
        chunk = policy.sample(obs, start, steps, seen)
        assert chunk.shape == start.shape, f"sample: expected {tuple(start.shape)}, got {tuple(chunk.shape)}"
        assert chunk.dtype == torch.float32


def check_init(make: MakePolicy) -> None:
    """Weights of a member come from its own generator: not from its neighbours or torch's global state."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pack = dict(make_pack(make, [3, 4, 3]).named_parameters())
    assert torch.equal(before, torch.get_rng_state()), "init_members draws from torch's global generator"
    torch.manual_seed(2)
    alone = {s: dict(make_pack(make, [s]).named_parameters()) for s in (3, 4)}
    for name, parameter in pack.items():
        assert parameter.shape[0] == 3, f"{name}: expected a leading member axis, got {tuple(parameter.shape)}"
        for m, seed in enumerate([3, 4, 3]):
            assert torch.equal(parameter[m], alone[seed][name][0]), f"{name}: member {m} depends on its neighbours"
    assert any(not torch.equal(p[0], p[1]) for p in pack.values()), "two seeds start alike"


def check_loss_is_a_function(make: MakePolicy) -> None:
    """Of batch, noise and time alone, and of noise and time indeed."""
    policy = make_pack(make, [0, 1])
    batch, noise, time = random_batch(policy, 5)
    copies = [x.clone() for x in (batch.obs.low_dim, batch.actions_MBHA, noise, time)]
    first = policy.loss(batch, noise, time)
    torch.manual_seed(99)
    assert torch.equal(first, policy.loss(batch, noise, time)), "loss: something random is not passed in"
    for x, copy in zip((batch.obs.low_dim, batch.actions_MBHA, noise, time), copies, strict=True):
        assert torch.equal(x, copy), "loss changes what it was given"
    order = torch.tensor([3, 1, 4, 0, 2])
    turned = part(batch, (slice(None), order))
    noises = noise.view(2, 5, -1)[:, order].reshape(2, -1)
    torch.testing.assert_close(policy.loss(turned, noises, time[:, order]), first[:, order], **CLOSE)


def check_pack(make: MakePolicy) -> None:
    """Member m of a pack is the same member alone, in loss, gradient and sample."""
    seeds = [5, 6, 7]
    pack = make_pack(make, seeds)
    batch, noise, time = random_batch(pack, 8)
    obs, start, seen = random_observations(pack, 4)
    loss_MB, chunk = pack.loss(batch, noise, time), pack.sample(obs, start, 3, seen)
    loss_MB.mean(1).sum().backward()
    for m, seed in enumerate(seeds):
        alone, one = make_pack(make, [seed]), slice(m, m + 1)
        loss = alone.loss(part(batch, one), noise[one], time[one])
        loss.mean().backward()
        torch.testing.assert_close(loss_MB[one], loss, **CLOSE)
        images = {name: array[one] for name, array in seen.items()}
        torch.testing.assert_close(chunk[one], alone.sample(obs[one], start[one], 3, images), **CLOSE)
        for (name, p), q in zip(pack.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.grad[m], q.grad[0], **CLOSE, msg=lambda text, n=name: f"{n}: {text}")


def check_padding_carries_no_loss(make: MakePolicy) -> None:
    """The target of a padded step has no gradient: it is an input of the network and nothing else.

    With the network's weights at zero, what is put into it does not matter, and padded actions change nothing.
    """
    policy = make_pack(make, [0])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    batch, noise, time = random_batch(policy, 8)
    pad = batch.is_pad_MBH[..., None]
    assert pad.any()
    other = dataclasses.replace(
        batch, actions_MBHA=torch.where(pad, torch.full_like(batch.actions_MBHA, 1e3), batch.actions_MBHA)
    )
    first = policy.loss(batch, noise, time)
    assert torch.equal(first, policy.loss(other, noise, time)), "padded actions are part of the loss"
    valid = dataclasses.replace(batch, actions_MBHA=torch.where(pad, batch.actions_MBHA, batch.actions_MBHA + 1))
    assert not torch.isclose(first, policy.loss(valid, noise, time)).any(), "valid actions are no part of the loss"


def check_sample_is_a_function(make: MakePolicy) -> None:
    policy = make_pack(make, [0, 1])
    obs, start, seen = random_observations(policy, 4)
    kept = start.clone()
    first = policy.sample(obs, start, 4, seen)
    torch.manual_seed(99)
    assert torch.equal(first, policy.sample(obs, start, 4, seen)), "sample: something random is not passed in"
    assert torch.equal(start, kept), "sample changes the noise it was given"
    zero = torch.zeros_like(start)
    assert torch.equal(policy.sample(obs, zero, 4, seen), policy.sample(obs, -zero, 4, seen)), "zero noise has no sign"
    for i in range(4):  # an example does not depend on the others of its batch
        one = (slice(None), slice(i, i + 1))
        images = {name: array[one] for name, array in seen.items()}
        torch.testing.assert_close(policy.sample(obs[one], start[one], 4, images), first[one], **CLOSE)


def check_every_parameter_learns(make: MakePolicy) -> None:
    policy = make_pack(make, [0, 1])
    policy.loss(*random_batch(policy, 8)).mean(1).sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, f"{name}: no gradient"
        for m in range(2):
            assert parameter.grad[m].abs().max() > 0, f"{name}: the gradient of member {m} is zero"
