"""Conformance checks for extensions: policies, encoders, environments and formats (docs/extending.md)."""

from raybc.testing.batched import check_batched
from raybc.testing.critics import check_critic
from raybc.testing.envs import check_rendering, check_task
from raybc.testing.formats import check_format
from raybc.testing.policies import check_config, check_encoder, check_policy

__all__ = [
    "check_batched",
    "check_config",
    "check_critic",
    "check_encoder",
    "check_format",
    "check_policy",
    "check_rendering",
    "check_task",
]
