"""Interfaces of policies and image encoders.

A policy is a *pack*: M independent policies in one module, in which every parameter has a leading member axis M. It
contains no optimiser, logging, environment or Ray, and draws no random numbers: `draws` declares them, and the caller
passes them in. Letters: M members, B batch, T observation steps, O observation dim, H chunk, A action dim, F features
of an encoded observation, E size of an instruction's embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from raybc.policies.frozen import FrozenLinear, can_freeze, is_acting
from raybc.policies.packed import PackedLinear
from raybc.policies.spec import PolicySpec as PolicySpec
from raybc.types import Batch, Observation, SampleSetting, UserError

if TYPE_CHECKING:
    from raybc.policies.critic import Critic

#: Name -> random numbers of each example, float32 (M, B, ...).
Draws = Mapping[str, Tensor]


@dataclass(frozen=True)
class DrawShape:
    """Declares random numbers that `Policy.loss` needs."""

    distribution: Literal["normal", "uniform"]
    """Standard normal, or uniform in [0, 1)."""
    shape: tuple[int, ...] = ()
    """Shape for one example."""
    by_step: bool = False
    """Drawn for one step at a time, from a stream of its own: for numbers that are many, and that must not change what
    else is drawn."""

    def sample(self, leading: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
        """Draw float32 (*leading, *shape) on `device`."""
        draw = torch.randn if self.distribution == "normal" else torch.rand
        return draw(*leading, *self.shape, generator=generator, device=device)


class Loss(NamedTuple):
    """Result of `Policy.loss`. It is a named tuple because wrappers such as FSDP search it for tensors."""

    value_MB: Tensor
    """Loss of each example, float32 (M, B); padded chunk steps do not contribute."""
    metrics: Mapping[str, Tensor]
    """Name -> (M, B), only for logging: the mean over the batch is the column `train/NAME` of train.csv."""
    critic_MB: Tensor | None = None
    """Loss of networks that share no parameter with the policy, float32 (M, B), such as a critic: part of the gradient,
    but not of what is logged and monitored as the loss."""


class Policy(nn.Module, ABC):
    """A pack of M policies. FSDP gathers layers with `is_fsdp_unit = True` one at a time; those with
    `recompute_unit = True` are computed again in the backward pass, if the run asks for it."""

    spec: PolicySpec
    members: int
    sample_axes: ClassVar[tuple[str, ...]] = ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble")
    """Sampling options that have an effect; must equal `sample_axes` of its configuration."""
    zero_gates: bool = False
    """Whether gates that are zero at the start (adaLN-zero) keep gradients from other parameters at the first steps."""
    critic: Critic | None
    """The critic that is trained beside the policy (`raybc.policies.build`); its parameters are the policy's last."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = None

    @abstractmethod
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise the weights; member m depends only on generators[m], not on the pack or any global generator."""

    @abstractmethod
    def draws(self) -> Mapping[str, DrawShape]:
        """Name -> random numbers that `loss` needs, in the order in which they are drawn."""

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """The loss of each example, which depends only on that example and its draws."""

    @abstractmethod
    def sample(self, obs: Observation[Tensor], noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """Normalised chunks, float32 (M, B, H, A). noise_MBHA: standard normal times `eval_temperature`."""

    def candidates(self, obs: Observation[Tensor], noise_MBNHA: Tensor, setting: SampleSetting) -> Tensor:
        """N normalised chunks for each observation, float32 (M, B, N, H, A): `sample` with each of N noises."""
        count = noise_MBNHA.shape[2]
        copies = obs.map(lambda array: array.repeat_interleave(count, dim=1))
        return self.sample(copies, noise_MBNHA.flatten(1, 2), setting).unflatten(1, (-1, count))

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """The same as `loss`; wrappers (DistributedDataParallel, FSDP) call it."""
        return self.loss(batch, draws)

    def prepare_for_acting(self) -> None:
        """Optimise the weights for inference; called once. The results of `sample` do not change."""


class Encoder(nn.Module, ABC):
    """A pack of M encoders of one kind of image."""

    features: int
    """F, the size of the output."""
    by_step: bool = False
    """Whether each observation step is encoded by itself, as an example with T = 1; the features of all steps follow
    each other. Otherwise the encoder sees all steps at once."""

    @abstractmethod
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """See `Policy.init_members`."""

    @abstractmethod
    def forward(self, images_MBTHWC: Tensor) -> Tensor:
        """uint8 (M, B, T, height, width, channels) -> float32 (M, B, F)."""


#: The name of the encoder of all images, where there is one for all, and of the linear map of instructions.
SHARED, LANGUAGE = "shared", "language_projection"


class ImageEncoders(nn.ModuleDict):
    """One encoder per image, and a linear map of instructions; encodes an observation as one vector."""

    frozen: FrozenLinear | None = None
    """The linear map for acting."""

    def __init__(
        self,
        spec: PolicySpec,
        encoders: Mapping[str, Encoder],
        crop: tuple[int, int] | None = None,
        members: int = 1,
    ) -> None:
        """
        Args:
            spec: sizes.
            encoders: of each image; one encoder may be that of several.
            crop: (height, width) of what the encoders see, the centre of larger images; None: all of them.
            members: M, of the linear map of instructions.
        """
        # Module names cannot contain dots.
        modules = {name.replace(".", "_"): encoder for name, encoder in encoders.items()}
        shared = len(modules) > 1 and len(set(map(id, modules.values()))) == 1
        super().__init__({SHARED: next(iter(modules.values()))} if shared else modules)
        self.names, self.crop = tuple(encoders), crop
        self._key_of = {name: SHARED if shared else name.replace(".", "_") for name in encoders}
        seen = (encoder.features * (spec.obs_steps if encoder.by_step else 1) for encoder in encoders.values())
        self.features = spec.obs_size + sum(seen) + spec.language_features
        """F: the size of the low-dimensional observations of all steps plus the features of each image and of the
        instruction."""
        if spec.language:
            self[LANGUAGE] = PackedLinear(members, spec.language, spec.language_features)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        for encoder in self.values():
            if isinstance(encoder, PackedLinear):
                for m, generator in enumerate(generators):
                    encoder.init_member(m, generator)
            else:
                encoder.init_members(generators)  # type: ignore[operator]  # an Encoder

    def encode(self, obs: Observation[Tensor]) -> Tensor:
        """The low-dimensional observations followed by the features of each image, and those of the instruction,
        float32 (M, B, F)."""
        low_dim = obs.low_dim.flatten(2)
        seen = [self._encoded(self[self._key_of[name]], centre(obs.images[name], self.crop)) for name in self.names]
        if LANGUAGE in self:
            assert obs.language is not None, "a policy that reads instructions needs their embeddings"
            seen.append(self._read(obs.language))
        return torch.cat([low_dim, *seen], dim=-1) if seen else low_dim

    def prepare_for_acting(self) -> None:
        """See `Policy.prepare_for_acting`."""
        if LANGUAGE in self and can_freeze(self[LANGUAGE]):
            self.frozen = self[LANGUAGE].freeze()  # type: ignore[operator]  # a PackedLinear

    def _read(self, language_MBE: Tensor) -> Tensor:
        if self.frozen is not None and is_acting():
            return self.frozen(language_MBE[0]).unsqueeze(0)
        features_MBF: Tensor = self[LANGUAGE](language_MBE)
        return features_MBF

    @staticmethod
    def _encoded(encoder: nn.Module, images_MBTHWC: Tensor) -> Tensor:
        if not encoder.by_step:
            features: Tensor = encoder(images_MBTHWC)
            return features
        steps = encoder(images_MBTHWC.flatten(1, 2).unsqueeze(2))  # (M, B T, F)
        return steps.unflatten(1, images_MBTHWC.shape[1:3]).flatten(2)


def centre(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """The centre of images (..., height, width, channels) of `size`, (height, width); None: the images themselves. In
    training, images are cut to this size at random beforehand (`raybc.policies.augment`)."""
    if size is None:
        return images
    top, left = ((int(images.shape[axis]) - size[i]) // 2 for i, axis in enumerate((-3, -2)))
    return images[..., top : top + size[0], left : left + size[1], :]


def mean_over_valid(error_MBHA: Tensor, is_pad_MBH: Tensor) -> Tensor:
    """The mean of an error over the chunk steps that are not padding, (M, B)."""
    valid_MBH = ~is_pad_MBH
    # The first step of a chunk is never padding, so every example has a valid step.
    return (error_MBHA.mean(-1) * valid_MBH).sum(-1) / valid_MBH.sum(-1)


def build_encoders(config: Any, spec: PolicySpec, members: int) -> ImageEncoders:
    """The encoders of a policy. config: an `EncoderConfig`. Raises `UserError` for images that are too small."""
    crop: tuple[int, int] | None = getattr(config, "crop", None)
    sizes = {}
    for name, (height, width, channels) in spec.images:
        if crop is not None and (crop[0] > height or crop[1] > width):
            raise UserError(
                f"--image_crop={config.image_crop}: {name}: expected at most the size of the images, {height},{width}"
            )
        seen = crop or (height, width)
        if min(seen) < config.smallest:
            raise UserError(
                f"--encoder={config.kind}: {name}: expected images of at least {config.smallest} x {config.smallest} "
                f"pixels, got {seen[0]} x {seen[1]}; use larger images, or a smaller encoder such as impala_small"
            )
        sizes[name] = (*seen, channels if config.by_step else spec.obs_steps * channels)
    if getattr(config, "image_shared", False) and sizes:
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {' x '.join(map(str, size))}" for name, size in sizes.items())
            raise UserError(
                f"--image_shared: expected images of one size, since one encoder sees all of them; got {found}"
            )
        encoder = config.build(config, next(iter(sizes.values())), members)
        return ImageEncoders(spec, dict.fromkeys(sizes, encoder), crop, members)
    encoders = {name: config.build(config, image, members) for name, image in sizes.items()}
    return ImageEncoders(spec, encoders, crop, members)
