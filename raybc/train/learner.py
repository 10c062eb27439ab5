"""What is trained: it stands between the trainer and the policy, so that more than a policy can learn (critics).

The trainer knows modules, draws, losses and phases, and nothing of what they mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.policies.base import Draws, DrawShape, Loss, Policy, PolicySpec
from raybc.policies.build import build_policy
from raybc.train.phases import Phase, phases_of
from raybc.types import Batch


class Learner(ABC):
    """A pack of M learners."""

    policy: Policy
    """What acts, and what a bundle holds."""
    module: nn.Module
    """Everything that is trained and saved; called with (batch, draws) it gives a `Loss`. Every parameter has the
    member axis first."""

    @abstractmethod
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initial weights; member m depends on generators[m] alone."""

    @abstractmethod
    def draws(self) -> Mapping[str, DrawShape]:
        """What `module` needs that is random, in the order in which it is drawn."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that learns."""
        return dict(self.module.named_parameters())

    def phases(self, run: RunConfig) -> list[Phase]:
        """Who learns when; by default what the options say."""
        return phases_of(run, list(self.parameters()))

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        loss: Loss = self.module(batch, draws)
        return loss

    def after_step(self, step: int) -> None:  # noqa: B027 (nothing to do by default)
        """Called after each gradient step, e.g. to let target networks follow."""

    def policy_weights(self) -> dict[str, Tensor]:
        """The policy's part of the module's state, under the policy's own names."""
        return dict(self.policy.state_dict())


class BehaviourCloning(Learner):
    """The policy alone, by its own loss."""

    def __init__(self, run: RunConfig, spec: PolicySpec, members: int) -> None:
        self.module = self.policy = build_policy(run, spec, members)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        self.policy.init_members(generators)

    def draws(self) -> Mapping[str, DrawShape]:
        return self.policy.draws()
