"""The built-in kinds of critics. This module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from raybc.config.component import CriticConfig, register
from raybc.config.options import CHANGED, flag_path, option
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig

_OFFLINE = "a sweep trains on data alone"
_ONLINE = ({"online_steps": CHANGED},)


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
    online_steps: int = option(0, at_least=0, below=2**31, axis=_OFFLINE)
    """Steps of the environment to collect after training on data, and to learn from beside them (0: none)."""
    learning_starts: int = option(
        0, at_least=0, below=2**31, axis=_OFFLINE, only_with=_ONLINE, aliases=("start_training",)
    )
    """The first of these steps, which are only collected, by the policy of the end of the offline part."""
    utd: float = option(1.0, above=0, at_most=1000, axis=_OFFLINE, only_with=_ONLINE)
    """Gradient steps for each step of the environment after those."""
    policy_lag: int = option(1024, at_least=64, axis=_OFFLINE, only_with=_ONLINE)
    """The most gradient steps that a policy may be old while it collects. A larger number lets more simulators work."""

    @property
    def online_updates(self) -> int:
        return int(max(0, self.online_steps - self.learning_starts) * self.utd + 1e-9)

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
        if self.online_steps:
            self._validate_online(run, place)

    def _validate_online(self, run: RunConfig, place: str) -> None:
        if not run.has_environment:
            raise UserError(
                f"{place}online_steps: expected 0 without a simulator (env_name none), got {self.online_steps}"
            )
        if self.learning_starts >= self.online_steps:
            raise UserError(
                f"{place}learning_starts: expected fewer than the {self.online_steps} steps of online_steps, since "
                f"nothing would be learned, got {self.learning_starts}"
            )
        if not self.online_updates:
            raise UserError(f"{place}utd: expected at least one gradient step in the online part, got {self.utd:g}")
        if run.lr_schedule == "cosine":
            raise UserError(
                f"{place}lr_schedule: expected constant with online_steps, got cosine, which ends at min_lr with the "
                "offline part"
            )
        for name in ("sampling_plan_path", "dataset_replace_interval", "epochs_per_round", "stop_patience"):
            if run.get(name):
                raise UserError(
                    f"{place}{name}: expected none with online_steps, where the data grow, got {run.get(name)}"
                )
