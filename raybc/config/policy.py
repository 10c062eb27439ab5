"""The built-in kinds of policies. This module does not import PyTorch.

A policy kind is a network (`raybc.config.networks`) with an objective: what it learns to predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from raybc.config.component import SAMPLE_OPTIONS, PolicyConfig, register
from raybc.config.networks import MLPOptions, TransformerOptions, UNetOptions
from raybc.config.options import flag_path, option
from raybc.types import SampleSetting, UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig

#: Objective -> sampling options that have an effect.
_SAMPLED = {
    "flow": SAMPLE_OPTIONS,
    "mip": ("execute_steps", "temporal_ensemble"),
    "regression": ("execute_steps", "temporal_ensemble"),
    "diffusion": ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble"),
}
_ALWAYS = {
    "mip": "with objective mip, which always makes two evaluations of the network without noise",
    "regression": "with objective regression, which makes one evaluation of the network without noise",
    "diffusion": "with objective diffusion, which samples with DDIM",
}


@dataclass(frozen=True)
class ObjectiveOptions(PolicyConfig):
    """What the network of a policy learns to predict, and how actions are made from it."""

    builder: ClassVar[str] = "raybc.policies.chunk:build"
    network: ClassVar[str] = ""
    """`module:function` that builds the network from (run, spec, features, members)."""

    objective: Literal["flow", "mip", "regression", "diffusion"] = "flow"
    """flow: the velocity of rectified flow. mip: two-step regression. regression: the chunk itself. diffusion: DDPM,
    sampled with DDIM."""
    flow_time: Literal["uniform", "beta", "logit_normal"] = option("uniform", only_with=({"objective": "flow"},))
    """Distribution of the flow time in training. beta: more noise, as in pi0. logit_normal: more of the middle."""
    regression_loss: Literal["mse", "l1"] = option("mse", only_with=({"objective": "regression"},))
    """Mean squared or mean absolute error."""
    diffusion_steps: int = option(100, at_least=2, only_with=({"objective": "diffusion"},))
    """Noise levels of the squared-cosine schedule; flow_steps of them are visited when acting."""
    diffusion_prediction: Literal["epsilon", "sample"] = option("epsilon", only_with=({"objective": "diffusion"},))
    """The network predicts the noise (epsilon) or the chunk (sample)."""
    diffusion_time: Literal["fraction", "index"] = option("fraction", only_with=({"objective": "diffusion"},))
    """What the network sees of noise level k of K: k / K as flows do (fraction), or k itself, as Diffusion Policy and
    LeRobot (index)."""

    @property
    def sample_axes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sampling options that have an effect."""
        return _SAMPLED[self.objective]

    def evaluations(self, setting: SampleSetting) -> int:
        return 2 if self.objective == "mip" else super().evaluations(setting)

    def without_effect(self, name: str) -> str:
        return _ALWAYS[self.objective]

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        if self.objective == "diffusion" and run.flow_steps > self.diffusion_steps:
            raise UserError(
                f"{flag_path(where)}flow_steps: expected at most diffusion_steps = {self.diffusion_steps}, "
                f"got {run.flow_steps}"
            )


@register("flow")
@dataclass(frozen=True)
class FlowConfig(ObjectiveOptions, MLPOptions):
    """A multilayer perceptron, by default with flow matching."""

    network: ClassVar[str] = "raybc.policies.fields.mlp:build"
    renamed_weights: ClassVar[Mapping[str, str]] = {"field.": "velocity_field."}

    use_fourier_features: bool = False
    """Feed the flow time as Fourier features instead of a scalar."""


@register("flow_unet")
@dataclass(frozen=True)
class FlowUNetConfig(ObjectiveOptions, UNetOptions):
    """The conditional 1-D U-Net of Diffusion Policy, by default with flow matching."""

    network: ClassVar[str] = "raybc.policies.fields.unet1d:build"


@register("flow_transformer")
@dataclass(frozen=True)
class FlowTransformerConfig(ObjectiveOptions, TransformerOptions):
    """A diffusion transformer (DiT) over the steps of a chunk, by default with flow matching."""

    network: ClassVar[str] = "raybc.policies.fields.transformer:build"


@register("regression")
@dataclass(frozen=True)
class RegressionConfig(MLPOptions, PolicyConfig):
    """Regression on the chunk with a multilayer perceptron of the observation alone."""

    builder: ClassVar[str] = "raybc.policies.regression:build"
    sample_axes: ClassVar[tuple[str, ...]] = ("execute_steps", "temporal_ensemble")

    regression_loss: Literal["mse", "l1"] = "mse"
    """Mean squared or mean absolute error."""
