"""ResNet encoders: torchvision as oracle, the spatial softmax by hand, one observation step at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raybc.config import RunConfig
from raybc.policies.base import PolicySpec, build_encoders
from raybc.policies.encoders.resnet import BLOCKS, BatchNorm, ResNet, SpatialSoftmax, group_norm
from raybc.types import Observation, UserError
from tests.helpers import of_images, tiny_config
from tests.test_images import image_trainer


@pytest.fixture(scope="module")
def torchvision() -> Any:
    return of_images("torchvision")


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_network_is_torchvisions(kind: str, torchvision: Any) -> None:
    theirs = getattr(torchvision.models, kind)().eval()
    ours = ResNet(3, BLOCKS[kind], nn.BatchNorm2d).eval()
    theirs.fc = nn.Identity()
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes
    images = torch.randn(2, 3, 84, 70)
    torch.testing.assert_close(ours(images).mean((-2, -1)), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "parameters"), [("resnet18", 11_176_512), ("resnet34", 21_284_672)])
def test_published_sizes(kind: str, parameters: int) -> None:
    """Those of torchvision (11,689,512 and 21,797,672) without the 513,000 of the last layer."""
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet(3, BLOCKS[kind]).parameters()) == parameters


def test_batch_norm_learns_where_gradients_are_computed() -> None:
    """The same as PyTorch's in its two modes, without calls of `train()` and `eval()`."""
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for _ in range(3):
        x = 5 + 2 * torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(ours(x), theirs(x))
    before = ours.running_mean.clone()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x))
    ours.requires_grad_(False)
    torch.testing.assert_close(ours(x), theirs(x))
    assert torch.equal(ours.running_mean, before)
    assert torch.equal(ours.running_mean, theirs.running_mean)


def test_batch_norm_in_training(tmp_path: Path) -> None:
    """Its running averages are saved, resumed bit for bit, kept while the encoder is frozen, and used when acting."""
    options = {"encoder": "resnet18", "image_norm": "batch", "image_pool": "average", "batch_size": 4}
    whole = image_trainer(**options)
    whole.advance(2)
    whole.save_state(tmp_path / "state.safetensors")
    means = {k: v.clone() for k, v in whole.policy.state_dict().items() if "running_mean" in k}
    assert len(means) == 20
    whole.advance(4)
    assert not any(torch.equal(v, whole.policy.state_dict()[k]) for k, v in means.items())
    resumed = image_trainer(**options)
    resumed.load_state(tmp_path / "state.safetensors")
    assert all(torch.equal(v, resumed.policy.state_dict()[k]) for k, v in means.items())
    resumed.advance(4)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name]), name
    assert all(f"{name}" in whole.bundle(0).weights for name in means)
    frozen = image_trainer(**options, freeze="encoders", freeze_steps=3)
    first = {k: v.clone() for k, v in frozen.policy.state_dict().items() if k.startswith("encoders")}
    frozen.advance(3)
    assert all(torch.equal(v, frozen.policy.state_dict()[k]) for k, v in first.items()), "frozen means frozen"
    frozen.advance(4)
    assert not any(torch.equal(v, frozen.policy.state_dict()[k]) for k, v in first.items() if "running_mean" in k)


def test_batch_norm_and_averaged_weights_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"image_norm: expected group with ema_decay = 0.99, got batch: averaged weights"
    ):
        tiny_config(encoder="resnet18", image_norm="batch", ema_decay=0.99).validate()


def test_groups_have_16_channels() -> None:
    norms = [m for m in ResNet(3, BLOCKS["resnet18"]).modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 20
    assert all(norm.num_channels == 16 * norm.num_groups for norm in norms)
    x = torch.randn(2, 64, 3, 3)
    one = x.unflatten(1, (4, 16))
    expected = (one - one.mean((2, 3, 4), keepdim=True)) / (one.var((2, 3, 4), False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(group_norm(64)(x), expected.flatten(1, 2))


def test_the_spatial_softmax_is_a_mean_position() -> None:
    pool = SpatialSoftmax(1, 2)
    with torch.no_grad():
        pool.maps.weight[:, 0, 0, 0] = torch.tensor([1.0, 0.0])
        pool.maps.bias.zero_()
    maps = torch.zeros(1, 1, 3, 5)
    maps[0, 0, 2, 1] = 1e3  # third row, second column
    torch.testing.assert_close(pool(maps), torch.tensor([[-0.5, 0.0, 1.0, 0.0]]))  # x of both maps, y of both
    maps[0, 0, 0, 1] = 1e3  # as high in the first row
    torch.testing.assert_close(pool(maps), torch.tensor([[-0.5, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("pool", ["spatial_softmax", "average"])
def test_each_step_is_encoded_by_itself(pool: str) -> None:
    config = RunConfig.of(encoder="resnet18", image_pool=pool).encoder
    spec = PolicySpec(3, 2, 4, 2, (("front", (40, 36, 3)),))
    encoders = build_encoders(config, spec, 2)
    encoders.init_members([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    size = 64 if pool == "spatial_softmax" else 512
    assert encoders.features == 2 * 3 + 2 * size
    images = torch.randint(256, (2, 3, 2, 40, 36, 3), dtype=torch.uint8)
    low_dim = torch.randn(2, 3, 2, 3)
    both = encoders.encode(Observation(low_dim, {"front": images}))
    assert both.shape == (2, 3, encoders.features)
    torch.testing.assert_close(both[..., :6], low_dim.flatten(2))
    for step in (0, 1):
        alone = encoders["front"](images[:, :, step : step + 1])
        torch.testing.assert_close(both[..., 6 + step * size : 6 + (step + 1) * size], alone, rtol=1e-4, atol=1e-5)


def test_images_too_small_for_positions_are_refused() -> None:
    config = RunConfig.of(encoder="resnet18").encoder
    with pytest.raises(UserError, match=r"resnet18: front: expected images of at least 33 x 33 pixels, got 32 x 64"):
        build_encoders(config, PolicySpec(0, 2, 4, 1, (("front", (32, 64, 3)),)), 1)
    assert build_encoders(
        RunConfig.of(encoder="resnet18", image_pool="average").encoder, PolicySpec(0, 2, 4, 1, (("a", (8, 8, 3)),)), 1
    )


def shared_spec(sizes: tuple[tuple[int, int, int], ...]) -> PolicySpec:
    images = {f"camera{i}": size for i, size in enumerate(sizes)}
    return PolicySpec.of({"state": 3}, images, 2, 4, 1)


def test_one_encoder_for_all_cameras() -> None:
    config = tiny_config(encoder="resnet18", image_shared=True, image_pool="average").encoder
    spec = shared_spec(((40, 40, 3), (40, 40, 3)))
    alone, shared = build_encoders(config, shared_spec(((40, 40, 3),)), 2), build_encoders(config, spec, 2)
    assert shared.features == spec.obs_size + 2 * 512
    assert sum(p.numel() for p in shared.parameters()) == sum(p.numel() for p in alone.parameters())
    assert all(name.startswith("shared.") for name in shared.state_dict())
    shared.init_members([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    first, second = torch.randint(0, 256, (2, 2, 3, 1, 40, 40, 3), dtype=torch.uint8)
    low_dim = torch.zeros(2, 3, 1, 3)
    seen = shared.encode(Observation(low_dim, {"camera0": first, "camera1": second}))
    turned = shared.encode(Observation(low_dim, {"camera0": second, "camera1": first}))
    assert torch.equal(seen[..., 3:515], turned[..., 515:])
    assert not torch.equal(seen[..., 3:515], seen[..., 515:])


def test_one_encoder_needs_one_size() -> None:
    config = tiny_config(encoder="resnet18", image_shared=True).encoder
    with pytest.raises(UserError, match=r"expected images of one size.*camera0 40 x 40 x 3, camera1 48 x 40 x 3"):
        build_encoders(config, shared_spec(((40, 40, 3), (48, 40, 3))), 1)
