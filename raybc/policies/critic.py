"""The critic of a pack: the value of a whole chunk of actions, by an ensemble of perceptrons.

    Q_k(s, a_{t:t+h}),  k = 1 .. K:   x <- norm(gelu(W x + b)) per hidden layer, a number at last

(Li, Zhou and Levine 2025, "Reinforcement Learning with Action Chunking", arXiv 2507.07969.) The critic encodes
observations itself, so no gradient of it reaches the policy. Actions are clipped to the range of the training data,
outside of which nothing is known of values; the paper clips to [-1, 1], the range of its environments' actions.

Letters: M members, K networks of an ensemble, B batch, N candidates, F features of an observation, H chunk, A action
dim, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raybc.policies.activations import gelu
from raybc.policies.base import ImageEncoders, PolicySpec, build_encoders
from raybc.policies.packed import PackedLinear, norm
from raybc.types import Observation

if TYPE_CHECKING:
    from raybc.config import RunConfig


class EnsembleLinear(nn.Module):
    """M x K linear layers: (M, K, B, I) -> (M, K, B, O)."""

    def __init__(self, members: int, networks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weights_MKIO = nn.Parameter(torch.empty(members, networks, inputs, outputs))
        self.bias_MK1O = nn.Parameter(torch.empty(members, networks, 1, outputs))

    def init_member(self, m: int, generator: torch.Generator) -> None:
        """As `PackedLinear.init_member`."""
        shape = self.weights_MKIO.shape[1:]
        with torch.no_grad():
            self.weights_MKIO[m] = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
            self.bias_MK1O[m] = 0.0

    def forward(self, x_MKBI: Tensor) -> Tensor:
        bias, x, weights = self.bias_MK1O.flatten(0, 1), x_MKBI.flatten(0, 1), self.weights_MKIO.flatten(0, 1)
        return torch.baddbmm(bias, x, weights).unflatten(0, self.weights_MKIO.shape[:2])


class Critic(nn.Module):
    """A pack of M critics, each an ensemble of K networks. Every parameter and buffer has the member axis first."""

    action_low_MA: Tensor
    action_high_MA: Tensor

    def __init__(
        self, spec: PolicySpec, encoders: ImageEncoders, members: int, networks: int, width: int, depth: int
    ) -> None:
        """
        Args:
            spec: sizes.
            encoders: of the images and instructions, the critic's own.
            members: M.
            networks: K.
            width: units of a hidden layer.
            depth: hidden layers.
        """
        super().__init__()
        self.spec, self.members, self.networks = spec, members, networks
        self.encoders = encoders
        # The first layer in two parts, so that an observation is seen once for all candidates.
        self.observe = PackedLinear(members, encoders.features, networks * width)
        self.act = PackedLinear(members, spec.ahead * spec.action_size, networks * width, bias=False)
        self.hidden = nn.ModuleList(EnsembleLinear(members, networks, width, width) for _ in range(depth - 1))
        self.out = EnsembleLinear(members, networks, width, 1)
        for name, bound in (("low", -math.inf), ("high", math.inf)):
            self.register_buffer(f"action_{name}_MA", torch.full((members, spec.action_size), bound))

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """See `Policy.init_members`."""
        self.encoders.init_members(generators)
        for m, generator in enumerate(generators):
            for layer in (self.observe, self.act, *self.hidden, self.out):
                layer.init_member(m, generator)

    @torch.no_grad()
    def limit(self, low_A: Tensor, high_A: Tensor) -> None:
        """Clip actions to a range, float32 (A,) each, normalised."""
        self.action_low_MA.copy_(low_A.expand_as(self.action_low_MA))
        self.action_high_MA.copy_(high_A.expand_as(self.action_high_MA))

    def values(self, obs: Observation[Tensor], actions_MBHA: Tensor) -> Tensor:
        """The value of a chunk by each network, float32 (K, M, B). Observations and actions are normalised."""
        return self._values(obs, actions_MBHA.unsqueeze(2)).squeeze(-1).transpose(0, 1)

    def score(self, obs: Observation[Tensor], actions_MBNHA: Tensor) -> Tensor:
        """The mean of the networks' values of N candidates for each observation, float32 (M, B, N)."""
        return self._values(obs, actions_MBNHA).mean(1)

    def _values(self, obs: Observation[Tensor], actions_MBNHA: Tensor) -> Tensor:
        """(M, K, B, N)."""
        count = actions_MBNHA.shape[2]  # the number of rows would be a constant in exported graphs
        low, high = (bound[:, None, None, None] for bound in (self.action_low_MA, self.action_high_MA))
        chunk_MBNHA = actions_MBNHA[..., self.spec.past :, :].clamp(low, high)
        split = (self.networks, -1)
        seen = self.observe(self.encoders.encode(obs)).unflatten(-1, split).unsqueeze(2)  # (M, B, 1, K, W)
        done = self.act(chunk_MBNHA.flatten(1, 2).flatten(2)).unflatten(-1, split).unflatten(1, (-1, count))
        x_MKBW = (seen + done).flatten(1, 2).transpose(1, 2)
        for layer in self.hidden:
            x_MKBW = layer(norm(gelu(x_MKBW)))
        values: Tensor = self.out(norm(gelu(x_MKBW)))
        return values.squeeze(-1).unflatten(-1, (-1, count))


def build(run: RunConfig, spec: PolicySpec, members: int) -> Critic:
    """Builder of `--critic q_chunking`."""
    config: Any = run.critic
    encoders = build_encoders(run.encoder, spec, members)
    return Critic(spec, encoders, members, config.critic_ensemble, config.critic_width, config.critic_depth)
