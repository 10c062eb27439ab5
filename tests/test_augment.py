"""Random changes of images: by hand, against torchvision, and what acting sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.inference.agent import Agent
from raybc.policies.augment import Augmentation, augmentation_of, colour_jitter, random_crop
from raybc.policies.base import PolicySpec, build_encoders, centre
from raybc.types import Batch, Observation, UserError
from tests.test_images import image_data, image_trainer
from tests.test_resnet import torchvision  # noqa: F401 (a fixture)

ALL = {"image_crop": "6,5", "image_shift": 2, "p_aug": 0.5, "color_jitter": 0.4}


def batch_of(*shape: int) -> Batch:
    """Images `front` of shape (M, B, T, height, width, C) with random pixels."""
    images = torch.randint(256, shape, dtype=torch.uint8)
    obs = Observation(torch.zeros(*shape[:3], 1), {"front": images})
    return Batch(obs, torch.zeros(*shape[:2], 4, 2), torch.zeros(*shape[:2], 4, dtype=torch.bool))


def made(images: tuple[int, int, int] = (8, 7, 3), **options: Any) -> Augmentation:
    found = augmentation_of(RunConfig.of(encoder="impala_small", **options).encoder, (("front", images),))
    assert found is not None
    return found


def drawn(augmentation: Augmentation, batch: Batch, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    leading = batch.actions_MBHA.shape[:2]
    return {name: s.sample(leading, g, torch.device("cpu")) for name, s in augmentation.draws().items()}


def test_a_crop_is_a_part_of_the_image_at_every_position() -> None:
    images = torch.arange(8 * 7, dtype=torch.uint8).view(1, 1, 8, 7, 1).expand(4000, 2, 8, 7, 1)
    cut = random_crop(images, (6, 5), torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)))
    assert cut.shape == (4000, 2, 6, 5, 1)
    corners = cut[:, 0, 0, 0, 0].tolist()
    counts = {corner: corners.count(corner) for corner in set(corners)}
    assert counts.keys() == {7 * row + column for row in range(3) for column in range(3)}
    assert all(350 < n < 550 for n in counts.values())  # 444 are expected
    for n in range(50):
        row, column = divmod(corners[n], 7)
        assert torch.equal(cut[n], images[n, :, row : row + 6, column : column + 5])
    assert torch.equal(random_crop(images[:1], (6, 5), torch.full((1, 2), 1 - 1e-8)), images[:1, :, 2:, 2:])


def test_a_shift_repeats_edges_and_moves_all_steps_alike() -> None:
    batch = batch_of(2, 300, 3, 8, 7, 3)
    augmentation = made(image_shift=2, p_aug=0.5)
    shifted = augmentation(batch, drawn(augmentation, batch)).obs.images["front"]
    assert shifted.dtype == torch.uint8
    padded = np.pad(batch.obs.images["front"].numpy(), ((0, 0), (0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    unmoved = 0
    for m in range(2):
        for b in range(300):
            parts = [(y, x) for y in range(5) for x in range(5)]
            same = [at for at in parts if np.array_equal(padded[m, b, :, at[0] : at[0] + 8, at[1] : at[1] + 7],
                                                         shifted[m, b].numpy())]  # fmt: skip
            assert len(same) == 1
            unmoved += same == [(2, 2)]
    assert 260 < unmoved < 365, "half, and 1 of 25 of the others: 312 are expected"


def test_colours_are_those_of_torchvision(torchvision: Any) -> None:  # noqa: F811
    from torchvision.transforms import functional

    images = torch.randint(256, (5, 2, 6, 7, 3), dtype=torch.uint8)
    u = torch.rand(5, 3)
    ours = colour_jitter(images, 0.4, u)
    for n in range(5):
        brightness, contrast, saturation = (1 + 0.4 * (2 * u[n] - 1)).tolist()
        for t in range(2):
            x = images[n, t].permute(2, 0, 1).float() / 255
            x = functional.adjust_brightness(x, brightness)
            x = functional.adjust_saturation(functional.adjust_contrast(x, contrast), saturation)
            difference = (255 * x.permute(1, 2, 0) - ours[n, t].float()).abs().max()
            assert difference <= 0.6, "rounding, and weights of grey to three or four digits"


def test_without_options_nothing_is_drawn() -> None:
    images = (("front", (8, 7, 3)),)
    assert augmentation_of(RunConfig.of(encoder="impala_small").encoder, images) is None
    assert augmentation_of(RunConfig.of(encoder="impala_small", **ALL).encoder, ()) is None
    assert augmentation_of(RunConfig.of().encoder, images) is None


def test_members_and_pieces_see_what_they_would_alone() -> None:
    augmentation, batch = made(**ALL), batch_of(2, 4, 1, 8, 7, 3)
    draws = drawn(augmentation, batch)
    whole = augmentation(batch, draws).obs.images["front"]
    assert whole.shape == (2, 4, 1, 6, 5, 3)
    part = Batch(
        Observation(batch.obs.low_dim[1:, 2:], {"front": batch.obs.images["front"][1:, 2:]}),
        batch.actions_MBHA[1:, 2:],
        batch.is_pad_MBH[1:, 2:],
    )
    alone = augmentation(part, {name: value[1:, 2:] for name, value in draws.items()}).obs.images["front"]
    assert torch.equal(alone, whole[1:, 2:])


def test_acting_sees_the_centre(tmp_path: Path) -> None:
    """Of images of full size, also after saving; and those of the size of the crop as they are."""
    trainer = image_trainer(image_crop="14,12")
    trainer.advance(2)
    trainer.bundle(0).save(tmp_path / "bundle")
    agent = Agent(PolicyBundle.load(tmp_path / "bundle"))
    store = image_data().store
    images = store.obs["pixels"][:3, None]
    height, width = images.shape[2:4]
    top, left = (height - 14) // 2, (width - 12) // 2
    other = images.copy()
    other[:, :, :top], other[:, :, :, :left] = 0, 255  # what is cut off has no effect
    other[:, :, top + 14 :], other[:, :, :, left + 12 :] = 7, 9
    low_dim = np.zeros((3, 1, agent.bundle.spec.low_dim_size), np.float32)
    config, noise = agent.bundle.config, np.zeros((3, agent.bundle.config.chunk_length, 2), np.float32)
    one, two = (
        agent.chunks(Observation(low_dim, {"pixels": seen}), noise, config.sample_setting) for seen in (images, other)
    )
    np.testing.assert_array_equal(one, two)
    assert torch.equal(centre(torch.from_numpy(images), (14, 12)),
                       torch.from_numpy(images[:, :, top : top + 14, left : left + 12]))  # fmt: skip


def test_a_resumed_run_and_a_member_alone_see_the_same(tmp_path: Path) -> None:
    options = {**ALL, "image_crop": "14", "accumulate": 2}
    whole, stopped = image_trainer((0, 1), **options), image_trainer((0, 1), **options)
    whole.advance(4)
    stopped.advance(2)
    stopped.save_state(tmp_path / "state.safetensors")
    resumed = image_trainer((0, 1), **options)
    resumed.load_state(tmp_path / "state.safetensors")
    resumed.advance(4)
    alone = image_trainer((1,), **options)
    alone.advance(4)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name])
        torch.testing.assert_close(value[1:], alone.policy.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("crop", ["0", "8,", "8x8", "-3", "a", "8,7,3"])
def test_what_is_no_size_is_refused(crop: str) -> None:
    with pytest.raises(UserError, match=r"image_crop: expected a size or 'HEIGHT,WIDTH' in pixels"):
        RunConfig.of(encoder="impala_small", image_crop=crop).validate()


def test_a_crop_larger_than_the_image_is_refused() -> None:
    config = RunConfig.of(encoder="impala_small", image_crop="8,9").encoder
    with pytest.raises(UserError, match=r"--image_crop=8,9: front: expected at most the size of the images, 8,8"):
        build_encoders(config, PolicySpec(0, 2, 4, 1, (("front", (8, 8, 3)),)), 1)
