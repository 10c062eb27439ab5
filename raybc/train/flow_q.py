"""Q-chunking: a flow policy that is cloned, and a critic of whole chunks of actions beside it.

    R_t   = sum_{i < h} gamma^i r_{t+i}                                  the rewards of a chunk of h steps
    a^j   = chunk j of N of the policy at s_{t+h};   a* = argmax_j mean_k Q_k(s_{t+h}, a^j)
    y     = R_t + gamma^h mask mean_k Qbar_k(s_{t+h}, a*)                mask = 0 where the chunk ended the episode
    loss  = L_flow + mean over the batch of valid sum_k (Q_k(s_t, a_{t:t+h}) - y)^2
    Qbar <- Qbar + tau (Q - Qbar)                                        after each step

(Li, Zhou and Levine 2025, "Reinforcement Learning with Action Chunking", arXiv 2507.07969, with best-of-N.) valid is 1
where the chunk lies in its episode and what follows it is known (`raybc.data.transitions`). Policy and critic share no
parameter, their gradients are clipped apart, and the candidates are drawn from a stream of their own: the policy is, to
the bit, the one that behaviour cloning makes. Acting: the best of N chunks by mean_k Q_k.

Letters: M members, K networks of the critic, B batch, N candidates, H chunk, A action dim.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.policies.base import Draws, DrawShape, Loss, PolicySpec
from raybc.policies.critic import Critic
from raybc.train.data import Prepared
from raybc.train.learner import BehaviourCloning
from raybc.types import Batch, Transition

#: The draw of the candidates' noise, and the name under which the target network is saved.
NOISE, TARGET = "candidate_noise", "critic_target"


class FlowQ(BehaviourCloning):
    """Trains a policy with its own loss, and its critic."""

    def __init__(self, run: RunConfig, spec: PolicySpec, members: int) -> None:
        super().__init__(run, spec, members)
        config: Any = run.critic
        assert self.policy.critic is not None
        self.critic: Critic = self.policy.critic
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        """Qbar."""
        self.tau, self.gamma_h = config.tau, config.gamma**spec.ahead
        self.candidates = config.critic_candidates
        self.setting = dataclasses.replace(run.sample_setting, eval_temperature=1.0)
        self.module = _Module(self)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        super().init_members(generators)
        self.critic.init_members(generators)  # after the policy, whose weights do not depend on it

    def begin(self, prepared: Prepared) -> None:
        assert prepared.action_range is not None
        self.critic.limit(*prepared.action_range)
        self.target.load_state_dict(self.critic.state_dict())

    def draws(self) -> Mapping[str, DrawShape]:
        spec = self.policy.spec
        noise = DrawShape("normal", (self.candidates, spec.horizon, spec.action_size), by_step=True)
        return {**super().draws(), NOISE: noise}

    def clipped(self) -> list[list[nn.Parameter]]:
        critic = list(self.critic.parameters())
        of_critic = set(map(id, critic))
        return [[p for p in self.policy.parameters() if id(p) not in of_critic], critic]

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"{TARGET}.{name}": value for name, value in self.target.state_dict().items()}

    @torch.no_grad()
    def targets(self, transition: Transition, noise_MBNHA: Tensor) -> Tensor:
        """y, float32 (M, B)."""
        obs = transition.next_obs
        chunks_MBNHA = self.policy.candidates(obs, noise_MBNHA, self.setting)
        best_MB = self.critic.score(obs, chunks_MBNHA).argmax(-1)
        index = best_MB[..., None, None, None].expand(-1, -1, 1, *chunks_MBNHA.shape[3:])
        next_MB = self.target.values(obs, chunks_MBNHA.gather(2, index).squeeze(2)).mean(0)
        return transition.reward_MB + self.gamma_h * transition.mask_MB * next_MB

    def critic_loss(
        self, batch: Batch, transition: Transition, noise_MBNHA: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss of each example, (M, B); metrics). Means of metrics run over valid examples."""
        target_MB, valid_MB = self.targets(transition, noise_MBNHA), transition.valid_MB
        values_KMB = self.critic.values(batch.obs, batch.actions_MBHA)
        loss_MB = valid_MB * ((values_KMB - target_MB) ** 2).sum(0)
        weight_MB = valid_MB / valid_MB.mean(1, keepdim=True).clamp_min(1 / valid_MB.shape[1])
        mean_MB = values_KMB.detach().mean(0)
        metrics = {"critic_loss": loss_MB, "q_mean": weight_MB * mean_MB, "target_mean": weight_MB * target_MB}
        return loss_MB, metrics

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        targets, sources = list[Tensor](self.target.parameters()), list[Tensor](self.critic.parameters())
        torch._foreach_lerp_(targets, sources, self.tau)


class _Module(nn.Module):
    """The networks of a `FlowQ`, called as one: wrappers and compilers see this module."""

    def __init__(self, learner: FlowQ) -> None:
        super().__init__()
        self.policy, self.target = learner.policy, learner.target
        self._critic_loss = learner.critic_loss

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        loss: Loss = self.policy(batch, draws)
        if batch.transition is None or not self.training:
            return loss
        critic_MB, metrics = self._critic_loss(batch, batch.transition, draws[NOISE])
        return Loss(loss.value_MB, {**loss.metrics, **metrics}, critic_MB)
