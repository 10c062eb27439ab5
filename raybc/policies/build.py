"""Build the network of a recipe."""

from __future__ import annotations

from raybc.config import RunConfig
from raybc.policies.base import Policy, PolicySpec
from raybc.policies.critic import Critic
from raybc.types import UserError


def build_policy(run: RunConfig, spec: PolicySpec, members: int) -> Policy:
    """The network of a recipe, a pack with uninitialised weights.

    Raises `UserError` if the builder of a custom policy or critic is missing or returns something else.
    """
    policy = run.policy.build(run, spec, members)
    if not isinstance(policy, Policy):
        name = type(run.policy).__name__
        raise UserError(
            f"policy {run.policy.kind}: {run.policy.builder}: expected a raybc.policies.base.Policy, got "
            f"{type(policy).__name__}; check it with raybc.testing.check_config({name})"
        )
    if not run.critic.is_none:
        critic = run.critic.build(run, spec, members)
        if not isinstance(critic, Critic):
            raise UserError(
                f"critic {run.critic.kind}: {run.critic.builder}: expected a raybc.policies.critic.Critic, got "
                f"{type(critic).__name__}"
            )
        policy.critic = critic
    return policy
