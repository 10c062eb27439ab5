"""Conformance checks for critics. Letters: M members, K networks, B batch, N candidates, H chunk, A action dim."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch

from raybc.policies.critic import Critic
from raybc.testing.policies import CLOSE, generators
from raybc.types import Observation


def check_critic(make: Callable[[int], Critic]) -> None:
    """Check `make(members)`, a pack of critics with uninitialised weights. Raises AssertionError."""

    def built(*seeds: int) -> Critic:
        critic = make(len(seeds))
        critic.init_members(generators(seeds))
        return critic

    pack = built(3, 4)
    spec, g = pack.spec, torch.Generator().manual_seed(0)
    obs = Observation(
        torch.randn(2, 5, spec.obs_steps, spec.low_dim_size, generator=g),
        {n: torch.randint(256, (2, 5, spec.obs_steps, *s), generator=g, dtype=torch.uint8) for n, s in spec.images},
        language=torch.randn(2, 5, spec.language, generator=g) if spec.language else None,
    )
    chunks = torch.randn(2, 5, 3, spec.horizon, spec.action_size, generator=g)
    values = torch.stack([pack.values(obs, chunks[:, :, n]) for n in range(3)], -1)
    assert values.shape[1:] == (2, 5, 3), f"values: expected (networks, members, batch), got {tuple(values.shape[:-1])}"
    scores = pack.score(obs, chunks)
    torch.testing.assert_close(scores, values.mean(0), **CLOSE)
    assert not torch.allclose(scores[..., 0], scores[..., 1]), "two chunks have the same value"
    for name, tensor in pack.state_dict().items():
        assert tensor.shape[0] == 2, f"{name}: expected a leading member axis, got {tuple(tensor.shape)}"
    for m, seed in enumerate((3, 4)):
        one = slice(m, m + 1)
        alone = built(seed).score(obs.map(operator.itemgetter(one)), chunks[one])
        torch.testing.assert_close(scores[one], alone, rtol=1e-4, atol=1e-5)
    past = chunks.clone()
    past[..., : spec.past, :] = 9.0
    assert torch.equal(pack.score(obs, past), scores), "actions before the current step change the value"
    values.square().sum().backward()
    for name, parameter in pack.named_parameters():
        assert parameter.grad is not None, f"{name}: no gradient"
    size = torch.full((spec.action_size,), 0.1)
    pack.limit(-size, size)
    torch.testing.assert_close(pack.score(obs, chunks), pack.score(obs, chunks.clamp(-0.1, 0.1)), **CLOSE)
