"""What a policy is. Letters: M members, B batch, T observation steps, O observation dim, H chunk, A action dim,
F features of an encoded observation.

A policy is a *pack*: M policies side by side that share nothing, every parameter with a leading member axis M. No
optimiser, logging, environment or Ray inside, and nothing random: what is random is named by `draws` and passed in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from raybc.types import Batch, Observation, SampleSetting

#: Name -> what was drawn for each example, (M, B, ...).
Draws = Mapping[str, Tensor]


@dataclass(frozen=True)
class PolicySpec:
    """The sizes that a task and a run give to a policy."""

    low_dim_size: int
    """O, the low-dimensional observations of one step."""
    action_size: int
    """A."""
    horizon: int
    """H, the steps of a chunk."""
    obs_steps: int = 1
    """T, the observations that are seen."""
    images: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    """(name, (height, width, channels of one step)) of each image."""

    @classmethod
    def of(
        cls,
        obs_sizes: Mapping[str, int],
        images: Mapping[str, tuple[int, int, int]],
        action_size: int,
        horizon: int,
        obs_steps: int,
    ) -> PolicySpec:
        """From name -> size and name -> (height, width, channels) of one step."""
        return cls(sum(obs_sizes.values()), action_size, horizon, obs_steps, tuple(images.items()))

    @property
    def obs_size(self) -> int:
        """T * O, the low-dimensional observations of all steps."""
        return self.obs_steps * self.low_dim_size

    def stacked_image(self, name: str) -> tuple[int, int, int]:
        """(height, width, channels of all steps) of an image."""
        height, width, channels = dict(self.images)[name]
        return height, width, self.obs_steps * channels


@dataclass(frozen=True)
class DrawShape:
    """Random numbers of one kind that `Policy.loss` needs for an example."""

    distribution: Literal["normal", "uniform"]
    """Standard normal, or uniform in [0, 1)."""
    shape: tuple[int, ...] = ()
    """Of one example."""

    def sample(self, leading: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
        """float32 (*leading, *shape)."""
        draw = torch.randn if self.distribution == "normal" else torch.rand
        return draw(*leading, *self.shape, generator=generator, device=device)


class Loss(NamedTuple):
    """What `Policy.loss` gives. (A named tuple: wrappers such as FSDP look for tensors in it.)"""

    value_MB: Tensor
    """Loss of each example, float32; padded chunk steps carry none."""
    metrics: Mapping[str, Tensor]
    """Name -> (M, B), for people: the mean over the batch is the column `train/NAME` of train.csv."""


class Policy(nn.Module, ABC):
    """A pack of M policies. Layers with `is_fsdp_unit = True` are those that FSDP gathers one at a time."""

    spec: PolicySpec
    members: int
    sample_axes: ClassVar[tuple[str, ...]] = ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble")
    """Sampling options that have an effect; the same as the `sample_axes` of its configuration."""

    @abstractmethod
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initial weights; member m depends on generators[m] alone, not on the pack or on PyTorch's own generator."""

    @abstractmethod
    def draws(self) -> Mapping[str, DrawShape]:
        """What `loss` needs that is random, in the order in which it is drawn."""

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """The loss of each example; a function of its inputs alone, by example."""

    @abstractmethod
    def sample(self, obs: Observation[Tensor], noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """Normalised chunks, float32 (M, B, H, A). noise_MBHA: standard normal times `eval_temperature`."""

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """`loss`: what wrappers of modules (DistributedDataParallel, FSDP) call."""
        return self.loss(batch, draws)

    def prepare_for_acting(self) -> None:
        """Change the weights' layout for inference, once, without changing what `sample` computes."""


class Encoder(nn.Module, ABC):
    """A pack of M encoders of one kind of image."""

    features: int
    """F, the size of what comes out."""

    @abstractmethod
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """As for a policy."""

    @abstractmethod
    def forward(self, images_MBTHWC: Tensor) -> Tensor:
        """uint8 (M, B, T, height, width, channels) -> float32 (M, B, F)."""


class ImageEncoders(nn.ModuleDict):
    """One encoder for each image that a policy sees; turns an observation into one vector."""

    def __init__(self, spec: PolicySpec, encoders: Mapping[str, Encoder]) -> None:
        # Names of modules have no dots.
        super().__init__({name.replace(".", "_"): encoder for name, encoder in encoders.items()})
        self.names = tuple(encoders)
        self.features = spec.obs_size + sum(encoder.features for encoder in encoders.values())
        """F: the low-dimensional observations of all steps, then the features of each image."""

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        for encoder in self.values():
            encoder.init_members(generators)  # type: ignore[operator]  # an Encoder

    def encode(self, obs: Observation[Tensor]) -> Tensor:
        """(M, B, F)."""
        low_dim = obs.low_dim.flatten(2)
        seen = [self[name.replace(".", "_")](obs.images[name]) for name in self.names]
        return torch.cat([low_dim, *seen], dim=-1) if seen else low_dim


def mean_over_valid(error_MBHA: Tensor, is_pad_MBH: Tensor) -> Tensor:
    """The mean of an error over the chunk entries that are not padding, (M, B)."""
    valid_MBH = ~is_pad_MBH
    # The first step of a chunk is never padding, so no example is without a valid entry.
    return (error_MBHA.mean(-1) * valid_MBH).sum(-1) / valid_MBH.sum(-1)


def build_encoders(config: Any, spec: PolicySpec, members: int) -> ImageEncoders:
    """The encoders of a policy. config: its `EncoderConfig`."""
    return ImageEncoders(
        spec, {name: config.build(config, spec.stacked_image(name), members) for name, _ in spec.images}
    )
