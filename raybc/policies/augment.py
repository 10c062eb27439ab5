"""Random changes of images in training, drawn as named draws: a resumed run and every member of a pack see the same.

A crop of random position (Chi et al. 2023: 76 of 84 pixels) has its counterpart in acting, where the encoders cut the
centre out (`centre`). A shift pads the image with its edge and cuts a part of the former size out (Yarats et al. 2021;
OGBench's agents shift by 3 pixels with probability 0.5). Colours are scaled in brightness, contrast and saturation, in
this order. All steps of an observation are changed alike, so that what moves between them is what has moved.

Letters: M members, B batch, T observation steps, C channels, N examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raybc.policies.base import Draws, DrawShape
from raybc.types import Batch

#: Weights of red, green and blue in a grey image (ITU-R 601).
GREY = (0.299, 0.587, 0.114)


class Augmentation:
    """What is done to the images of a batch."""

    def __init__(self, config: Any, images: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
        """
        Args:
            config: a `config.encoders.ImageOptions`.
            images: (name, (height, width, channels of one step)) of each image.
        """
        self._images = dict(images)
        self._crop: tuple[int, int] | None = config.crop
        self._shift, self._p_aug, self._jitter = config.image_shift, config.p_aug, config.color_jitter

    def draws(self) -> Mapping[str, DrawShape]:
        """Name -> random numbers of each example, all uniform in [0, 1)."""
        shapes = {}
        for name in self._images:
            if self._crop is not None:
                shapes[f"crop/{name}"] = DrawShape("uniform", (2,))
            if self._shift:
                shapes[f"shift/{name}"] = DrawShape("uniform", (3,))
            if self._jitter:
                shapes[f"colour/{name}"] = DrawShape("uniform", (3,))
        return shapes

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """The batch with other images; uint8 (M, B, T, height, width, C) stay uint8."""
        images = dict(batch.obs.images)
        for name in self._images:
            seen_NTHWC = images[name].flatten(0, 1)
            if self._shift:
                seen_NTHWC = self._shifted(seen_NTHWC, draws[f"shift/{name}"].flatten(0, 1))
            if self._crop is not None:
                seen_NTHWC = random_crop(seen_NTHWC, self._crop, draws[f"crop/{name}"].flatten(0, 1))
            if self._jitter:
                seen_NTHWC = colour_jitter(seen_NTHWC, self._jitter, draws[f"colour/{name}"].flatten(0, 1))
            images[name] = seen_NTHWC.unflatten(0, batch.actions_MBHA.shape[:2])
        return dataclasses.replace(batch, obs=dataclasses.replace(batch.obs, images=images))

    def _shifted(self, images_NTHWC: Tensor, drawn_N3: Tensor) -> Tensor:
        height, width = images_NTHWC.shape[2:4]
        most = 2 * self._shift
        offsets = (drawn_N3[:, :2] * (most + 1)).long().clamp_max(most)
        offsets = torch.where(drawn_N3[:, 2:] < self._p_aug, offsets, self._shift) - self._shift
        return _cut(images_NTHWC, offsets, height, width)


def random_crop(images_NTHWC: Tensor, size: tuple[int, int], drawn_N2: Tensor) -> Tensor:
    """Parts of `size`, (height, width), at every position with equal probability. drawn_N2: uniform in [0, 1)."""
    most = torch.tensor([images_NTHWC.shape[2] - size[0], images_NTHWC.shape[3] - size[1]], device=drawn_N2.device)
    return _cut(images_NTHWC, torch.minimum((drawn_N2 * (most + 1)).long(), most), *size)


def _cut(images_NTHWC: Tensor, offsets_N2: Tensor, height: int, width: int) -> Tensor:
    """Parts that begin at `offsets_N2`, (row, column); outside of an image its edge is repeated."""
    n, _, rows, columns, _ = images_NTHWC.shape
    offsets_N2 = offsets_N2.to(images_NTHWC.device)
    y = (offsets_N2[:, :1] + torch.arange(height, device=images_NTHWC.device)).clamp(0, rows - 1)
    x = (offsets_N2[:, 1:] + torch.arange(width, device=images_NTHWC.device)).clamp(0, columns - 1)
    example = torch.arange(n, device=images_NTHWC.device)[:, None, None]
    # Indexing around the axis of steps puts it behind the others.
    cut: Tensor = images_NTHWC.permute(0, 2, 3, 1, 4)[example, y[:, :, None], x[:, None, :]]
    return cut.permute(0, 3, 1, 2, 4)


def colour_jitter(images_NTHWC: Tensor, strength: float, drawn_N3: Tensor) -> Tensor:
    """Brightness, contrast and saturation times factors that are uniform in 1 - strength .. 1 + strength; images of
    one colour have no saturation. As torchvision's `ColorJitter` in a fixed order, rounded once at the end."""
    factors = (1 + strength * (2 * drawn_N3 - 1)).clamp_min(0).to(images_NTHWC.device)
    brightness, contrast, saturation = factors.view(len(factors), 3, 1, 1, 1, 1).unbind(1)
    x = (images_NTHWC.float() * brightness).clamp(0, 255)
    grey = _grey(x)
    x = (contrast * x + (1 - contrast) * grey.mean((2, 3), keepdim=True)).clamp(0, 255)
    if x.shape[-1] == len(GREY):
        x = (saturation * x + (1 - saturation) * _grey(x)).clamp(0, 255)
    return x.round().to(torch.uint8)


def _grey(x: Tensor) -> Tensor:
    if x.shape[-1] != len(GREY):
        return x.mean(-1, keepdim=True)
    return (x * torch.tensor(GREY, device=x.device)).sum(-1, keepdim=True)


def augmentation_of(config: Any, images: Sequence[tuple[str, tuple[int, int, int]]]) -> Augmentation | None:
    """The augmentation that the options of an encoder ask for; None: none. config: an `EncoderConfig`."""
    if not images or not any(getattr(config, name, 0) for name in ("crop", "image_shift", "color_jitter")):
        return None
    return Augmentation(config, images)
