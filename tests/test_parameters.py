"""The number of parameters of each network: as in independent implementations, and as in the documents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.plain_mlp import PlainMLP
from benchmarks.plain_transformer import PlainTransformer
from raybc.config import RunConfig
from raybc.config.networks import TRANSFORMER_SIZES
from raybc.policies.base import PolicySpec
from raybc.policies.build import build_policy
from raybc.policies.fields.unet1d import UNetField
from tests.helpers import ROOT

#: PushT's state: 2 observations of 5 numbers, chunks of 16 actions of 2.
PUSHT = PolicySpec(low_dim_size=5, action_size=2, horizon=16, obs_steps=2)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def of_recipe(**options: Any) -> int:
    with torch.device("meta"):
        return count(build_policy(RunConfig.of(**options), PUSHT, 1))


@pytest.mark.parametrize(
    ("actions", "features", "channels", "time", "parameters"),
    [
        # LeRobot 0.4.4, DiffusionConditionalUnet1d (kernel 5, 8 groups, FiLM with scale), counted on the meta device:
        # three cameras of 64 features and a state of 6, two steps; the first row has its default channels.
        (6, 2 * (3 * 64 + 6), (512, 1024, 2048), 128, 259_095_686),
        (6, 2 * (3 * 64 + 6), (256, 512, 1024), 128, 68_665_222),
        (6, 2 * (3 * 64 + 6), (128, 256, 512), 128, 19_161_350),
        (2, 2 * (64 + 2), (512, 1024, 2048), 128, 251_511_938),  # PushT's image, LeRobot's defaults
        # Diffusion Policy's settings for PushT (train_diffusion_unet_lowdim_workspace.yaml), counted with that class
        (2, 2 * 20, (256, 512, 1024), 256, 65_783_298),  # key points
        (2, 2 * 5, (256, 512, 1024), 256, 65_353_218),  # state
    ],
)
def test_the_unet_has_as_many_as_lerobots(
    actions: int, features: int, channels: tuple[int, ...], time: int, parameters: int
) -> None:
    with torch.device("meta"):
        assert count(UNetField(1, actions, features, channels=channels, time_size=time)) == parameters


@pytest.mark.parametrize("size", TRANSFORMER_SIZES)
def test_the_transformer_has_as_many_as_torch_nns(size: str) -> None:
    layers, heads, width = TRANSFORMER_SIZES[size]
    with torch.device("meta"):
        plain = count(PlainTransformer(2, 16, (2, 5), 10, layers, heads, width))
    # Squares of the width in a layer: attention 4, feed-forward 8, keys and values of observations 2, modulations 12.
    assert plain == pytest.approx((4 + 8 + 2 + 12) * layers * width**2, rel=0.1)
    assert of_recipe(policy="flow_transformer", transformer_size=size) == plain


@pytest.mark.parametrize("residual", [False, True])
def test_the_multilayer_perceptron_has_as_many_as_torch_nns(residual: bool) -> None:
    with torch.device("meta"):
        plain = count(PlainMLP(2, 16, 10, 512, 4, residual))
    assert of_recipe(hidden_block="residual" if residual else "plain") == plain


def test_the_documents_say_the_same() -> None:
    page = (ROOT / "docs/policies.md").read_text()
    of: dict[str, dict[str, Any]] = {
        "`flow`, 4 x 512 (default)": {},
        "`flow`, 4 residual blocks of width 512": {"hidden_block": "residual"},
        **{
            f"`flow_unet`, channels {channels}": {"policy": "flow_unet", "unet_channels": channels.split()[0]}
            for channels in ("64,128,256", "128,256,512", "256,512,1024 (default)")
        },
    }
    for size, (layers, heads, width) in TRANSFORMER_SIZES.items():
        default = " (default)" if size == "small" else ""
        name = f"`flow_transformer`, {size}{default}: {layers} layers, {heads} heads, width {width}"
        of[name] = {"policy": "flow_transformer", "transformer_size": size}
    for name, options in of.items():
        millions = of_recipe(**options) / 1e6
        text = f"{millions:.0f}" if millions > 100 else f"{millions:.2g}" if millions < 1 else f"{millions:.1f}"
        assert f"| {name} | {text} M |" in page
