"""Learners: the interface between the trainer and the networks, which may include more than a policy (critics).

The trainer handles modules, draws, losses and phases without knowing the algorithm.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.policies.base import Draws, DrawShape, Loss, Policy, PolicySpec
from raybc.policies.build import build_policy
from raybc.train.phases import Phase, phases_of
from raybc.types import Batch

if TYPE_CHECKING:
    from raybc.train.data import Prepared


class Learner(ABC):
    """A pack of M learners."""

    policy: Policy
    """The policy; bundles contain its weights."""
    module: nn.Module
    """All networks to train and save. Called with (batch, draws) it returns a `Loss`. Every parameter has the member
    axis first. In evaluation mode only the policy has a loss."""

    @abstractmethod
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise the weights; member m depends on generators[m] alone."""

    @abstractmethod
    def draws(self) -> Mapping[str, DrawShape]:
        """Name -> random numbers that `module` needs, in the order in which they are drawn."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter to train, with the names of `policy.state_dict()`."""
        return dict(self.policy.named_parameters())

    def clipped(self) -> list[list[nn.Parameter]]:
        """The parameters in groups whose gradients are clipped together."""
        return [list(self.parameters().values())]

    def state(self) -> dict[str, Tensor]:
        """Name -> tensor of `module` that a training state keeps."""
        return self.policy_weights()

    def begin(self, prepared: Prepared) -> None:  # noqa: B027 (nothing to do by default)
        """Called once, when the initial weights are in place."""

    def phases(self, run: RunConfig) -> list[Phase]:
        """The phases of training; by default those of the options."""
        return phases_of(run, list(self.parameters()))

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """The loss of each example, outside of any wrapper."""
        loss: Loss = self.module(batch, draws)
        return loss

    def after_step(self, step: int) -> None:  # noqa: B027 (nothing to do by default)
        """Called after each gradient step, e.g. to update target networks. step: gradient steps so far."""

    def policy_weights(self) -> dict[str, Tensor]:
        """Name -> weight of the policy, with the names of `policy.state_dict()`."""
        return dict(self.policy.state_dict())


def learner_of(run: RunConfig, spec: PolicySpec, members: int) -> Learner:
    """What trains a recipe: behaviour cloning, or the learner that its critic names."""
    module, _, name = run.critic.learner.partition(":")
    learner: type[BehaviourCloning] = getattr(importlib.import_module(module), name) if name else BehaviourCloning
    return learner(run, spec, members)


class BehaviourCloning(Learner):
    """Trains the policy with its own loss."""

    def __init__(self, run: RunConfig, spec: PolicySpec, members: int) -> None:
        self.module = self.policy = build_policy(run, spec, members)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        self.policy.init_members(generators)

    def draws(self) -> Mapping[str, DrawShape]:
        return self.policy.draws()
