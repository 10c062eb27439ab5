"""The U-Net of packs against the same network of torch.nn, and its options."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks.plain_unet import PlainUNet, copy_weights
from raybc.config import RunConfig
from raybc.policies.activations import mish
from raybc.policies.fields import convolution
from raybc.policies.fields.convolution import _Normed
from raybc.policies.fields.unet1d import UNetField
from raybc.types import UserError

torch.set_num_threads(1)
ACTIONS, FEATURES, HORIZON, BATCH = 3, 10, 8, 9


@pytest.mark.parametrize("windows", [True, False], ids=["windows", "convolutions"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "native"])
@pytest.mark.parametrize(("members", "kernel"), list(itertools.product((1, 2), (3, 5))))
@pytest.mark.parametrize("channels", [(8, 16), (8, 16, 16)], ids=str)
def test_it_is_the_plain_network(
    channels: tuple[int, ...], members: int, kernel: int, fused: bool, windows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients, in float64, of every way in which it is computed."""
    monkeypatch.setattr(convolution, "FUSED_FROM", 0 if fused else 1 << 40)
    monkeypatch.setattr(convolution, "WINDOWS_TO", 1 << 40 if windows else 0)
    torch.manual_seed(0)
    plains = [PlainUNet(ACTIONS, FEATURES, channels, kernel, 4, 16).double() for _ in range(members)]
    field = UNetField(members, ACTIONS, FEATURES, channels=channels, kernel=kernel, groups=4, time_size=16).double()
    for m, plain in enumerate(plains):
        for parameter in plain.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        copy_weights(field, m, plain)
    x = torch.randn(members, BATCH, HORIZON, ACTIONS, dtype=torch.float64, requires_grad=True)
    t = torch.rand(members, BATCH, 1, dtype=torch.float64)
    features = torch.randn(members, BATCH, FEATURES, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    ours = field(x, t, field.condition(features))
    theirs = torch.stack([plain(x[m], t[m, :, 0], features[m]) for m, plain in enumerate(plains)])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    got = torch.autograd.grad((ours * weight).sum(), (x, features))
    wanted = torch.autograd.grad((theirs * weight).sum(), (x, features))
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(field(x, t, field.condition(features)), theirs, rtol=1e-9, atol=1e-11)
        shared = field(x, t[:, :1], field.condition(features))
        torch.testing.assert_close(shared, field(x, t[:, :1].expand_as(t), field.condition(features)))


@pytest.mark.parametrize("film", [True, False])
def test_the_fused_block_has_the_numerical_gradient(film: bool) -> None:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    torch.manual_seed(0)
    inputs = (random(2, 3, 4, 8), random(2, 1, 1, 8), random(2, 1, 1, 8))
    modulation = (random(2, 3, 1, 8), random(2, 3, 1, 8)) if film else (None, None)
    assert torch.autograd.gradcheck(lambda *args: _Normed.apply(*args, 2, True), (*inputs, *modulation))


def test_both_forms_of_mish_are_one_function() -> None:
    x = torch.linspace(-110, 110, 20_001)
    with torch.no_grad():
        fast = mish(x[None])[0]
    torch.testing.assert_close(fast.double(), torch.nn.functional.mish(x.double()), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"horizon_length": 10}, "horizon_length: expected a multiple of 4 with the 3 levels of unet_channels, got 10"),
        ({"action_chunking": False}, r"horizon_length: .* got 1 \(action_chunking is off"),
        ({"unet_channels": "64,x"}, "unet_channels: expected numbers such as 64,128,256, got '64,x'"),
        ({"unet_channels": "12,24,48"}, "unet_channels: expected multiples of unet_groups = 8"),
        ({"unet_kernel": 4}, "unet_kernel: expected an odd number, got 4"),
        ({"unet_time_size": 5}, "unet_time_size: expected an even number, got 5"),
        ({"unet_groups": 0}, "unet_groups: expected at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=rf"^run\.{words}"):
        RunConfig.of(**{"policy": "flow_unet", "action_chunking": True, "horizon_length": 16, **options}).validate()
