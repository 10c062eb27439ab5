"""From a recipe to its network."""

from __future__ import annotations

from raybc.config import RunConfig
from raybc.policies.base import PolicyShape
from raybc.policies.flow import FlowPolicy


def build_policy(config: RunConfig, shape: PolicyShape, members: int) -> FlowPolicy:
    """The network of a recipe, with uninitialised weights."""
    return FlowPolicy(
        shape,
        width=config.hidden_width,
        depth=config.hidden_depth,
        use_fourier_features=config.use_fourier_features,
        encoder=config.encoder,
        members=members,
    )
