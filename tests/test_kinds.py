"""Every kind of policy and encoder of raybc passes the public checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raybc.config.component import kinds
from raybc.testing import check_config
from tests.helpers import of_images

torch.set_num_threads(1)

#: Kind -> options that make its networks small; several to check several forms.
POLICIES: dict[str, list[dict[str, Any]]] = {
    "flow": [
        {"hidden_width": 16, "hidden_depth": 2},
        {"hidden_width": 8, "hidden_depth": 1, "use_fourier_features": True},
        {"hidden_width": 8, "hidden_depth": 2, "hidden_block": "residual", "use_fourier_features": True},
        *(
            {"hidden_width": 8, "hidden_depth": 2, "hidden_block": "residual", "objective": objective}
            for objective in ("mip", "regression", "diffusion")
        ),
        *({"hidden_width": 8, "flow_time": time} for time in ("beta", "logit_normal")),
        *({"hidden_width": 8, "objective": objective} for objective in ("mip", "regression", "diffusion")),
    ],
    "flow_unet": [
        {"unet_channels": "8,16", "unet_groups": 4, "unet_time_size": 8},
        {"unet_channels": "8,8,16", "unet_groups": 2, "unet_kernel": 3, "unet_time_size": 8},
        *(
            {"unet_channels": "8,8", "unet_groups": 2, "unet_time_size": 8, "objective": objective}
            for objective in ("mip", "regression", "diffusion")
        ),
    ],
    "flow_transformer": [
        {"transformer_layers": 2, "transformer_heads": 2, "transformer_width": 16},
        *(
            {"transformer_size": "tiny", "transformer_layers": 1, "transformer_width": 12, "objective": objective}
            for objective in ("mip", "regression", "diffusion")
        ),
    ],
    "regression": [
        *({"hidden_width": 16, "hidden_depth": 2, "regression_loss": e} for e in ("mse", "l1")),
        {"hidden_width": 8, "hidden_depth": 2, "hidden_block": "residual"},
        {"hidden_widths": "12,8", "hidden_activation": "relu"},
    ],
}
ENCODERS: dict[str, list[dict[str, Any]]] = {
    "impala_small": [{}],
    "impala": [{}],
    "impala_large": [{}],
    "resnet18": [{}, {"image_pool": "average"}, {"image_norm": "batch"}, {"image_head": "relu"}],
    "resnet34": [{}],
    "vit": [{"vit_model": "test_vit"}],
}


@pytest.mark.parametrize(("kind", "options"), [(k, o) for k, some in POLICIES.items() for o in some])
def test_policies(kind: str, options: dict[str, Any]) -> None:
    check_config(kinds("policy")[kind], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "options"), [(k, o) for k, some in ENCODERS.items() for o in some])
def test_encoders(kind: str, options: dict[str, Any]) -> None:
    if kind == "vit":
        of_images("timm")
    check_config(kinds("encoder")[kind], **options)  # type: ignore[arg-type]


def test_every_kind_is_checked() -> None:
    assert POLICIES.keys() == kinds("policy").keys()
    assert ENCODERS.keys() == kinds("encoder").keys() - {"None"}
