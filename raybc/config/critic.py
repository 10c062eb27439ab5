"""The built-in kinds of critics. This module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from raybc.config.component import CriticConfig, register
from raybc.config.options import CHANGED, flag_path, option
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig


@register("none")
@dataclass(frozen=True)
class NoCritic(CriticConfig):
    """No critic: behaviour cloning."""


@register("q_chunking")
@dataclass(frozen=True)
class QChunking(CriticConfig):
    """Q-chunking: the value of a whole chunk of actions (docs/critic.md)."""

    builder: ClassVar[str] = "raybc.policies.critic:build"
    learner: ClassVar[str] = "raybc.train.flow_q:FlowQ"

    critic_ensemble: int = option(2, at_least=1)
    """K, the networks whose values are averaged."""
    critic_width: int = option(512, at_least=1)
    """Units in a hidden layer of the critic."""
    critic_depth: int = option(4, at_least=1)
    """Hidden layers of the critic."""
    gamma: float = option(0.99, at_least=0, at_most=1)
    """Discount of a step of the environment."""
    tau: float = option(0.005, above=0, at_most=1)
    """Share by which the target network approaches the critic at each step."""
    critic_candidates: int = option(32, at_least=1)
    """N, the chunks of the policy among which the best one gives the target (1: the policy's own value)."""
    online_steps: int = option(0, at_least=0, axis="a sweep trains on data alone")
    """Steps of the environment after training on data (0: none)."""
    utd: int = option(1, at_least=1, axis="a sweep trains on data alone", only_with=({"online_steps": CHANGED},))
    """Gradient steps for each step of the environment."""

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        place = flag_path(where)
        if "eval_temperature" not in run.policy.sample_axes:
            raise UserError(
                f"{place}critic: expected none {run.policy.without_effect('eval_temperature')}: all chunks that it "
                f"could choose among are equal, got {self.kind}; use a policy that samples, such as --policy=flow"
            )
        if getattr(run.encoder, "image_norm", "") == "batch":
            raise UserError(
                f"{place}image_norm: expected group with a critic, whose target network has no running averages of its "
                "own, got batch"
            )
