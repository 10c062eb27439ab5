"""ResNet-18 and ResNet-34 (He et al. 2015) as encoders of images, with torchvision's names of parameters.

With GroupNorm of 16 channels a group in place of BatchNorm, and a spatial softmax in place of the average, this is the
encoder of Diffusion Policy (Chi et al. 2023). A spatial softmax (Finn et al. 2016, "Deep Spatial Autoencoders") gives
the mean position of each of K feature maps. Images become 0 to 1, and are normalised with ImageNet's mean and spread.

The network is an ordinary module; a `PackedModule` runs one copy for each member, one after another.
Letters: N images, C channels, K keypoints, F features, M members, B batch, T observation steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raybc.policies.base import Encoder
from raybc.policies.packed import PackedModule

#: Mean and standard deviation of ImageNet's colours, as in torchvision.
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Channels in a group of GroupNorm (Diffusion Policy).
GROUP = 16
#: Name -> blocks in each of the four layers.
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
#: Channels of the four layers.
WIDTHS = (64, 128, 256, 512)

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // GROUP, channels)


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm that normalises by the batch where gradients of its weights are computed, and by its running averages
    elsewhere: when acting, in validation, and while it is frozen. So nobody has to call `train()` and `eval()`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None  # only needed without a momentum

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, learns, self.momentum or 0.0, self.eps
        )


NORMS: dict[str, Norm] = {"group": group_norm, "batch": BatchNorm}


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), 3 x 3 convolutions, the first one with the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The convolutional part of a ResNet: (N, C, height, width) -> (N, 512, height / 32, width / 32), rounded up."""

    def __init__(self, inputs: int, blocks: Sequence[int], norm: Norm = group_norm) -> None:
        """
        Args:
            inputs: C.
            blocks: residual blocks in each of the four layers.
            norm: channels -> a normalisation.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = norm(WIDTHS[0])
        before = WIDTHS[0]
        for i, (count, width) in enumerate(zip(blocks, WIDTHS, strict=True)):
            strides = [1 if i == 0 else 2, *[1] * (count - 1)]
            layer = [BasicBlock(before if j == 0 else width, width, s, norm) for j, s in enumerate(strides)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*layer))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for i in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x


def torchvision_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weights and running averages of torchvision's network without its last layer.

    kind: key of `BLOCKS`.
    """
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in ResNet(3, BLOCKS[kind], BatchNorm).state_dict().items()}


class SpatialSoftmax(nn.Module):
    """(N, C, height, width) -> (N, 2 K): for each of K maps the mean x and y, in -1 to 1, under a softmax over its
    pixels."""

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, keypoints, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.maps(x)
        height, width = int(maps.shape[-2]), int(maps.shape[-1])
        weights = maps.flatten(2).softmax(-1)
        y = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device).repeat_interleave(width)
        x = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device).repeat(height)
        return torch.cat([(weights * x).sum(-1), (weights * y).sum(-1)], -1)


class Average(nn.Module):
    """(N, C, height, width) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


class ResNetEncoder(nn.Module):
    """uint8 images (N, height, width, C) -> features (N, F)."""

    def __init__(self, inputs: int, kind: str, keypoints: int, norm: Norm = group_norm, head: bool = False) -> None:
        """
        Args:
            inputs: C; 3 are colours, others are normalised with the mean over colours.
            kind: key of `BLOCKS`.
            keypoints: K; 0: the average over the image instead of a spatial softmax.
            norm: channels -> a normalisation.
            head: whether a linear layer and ReLU follow.
        """
        super().__init__()
        self.backbone = ResNet(inputs, BLOCKS[kind], norm)
        self.pool = SpatialSoftmax(WIDTHS[-1], keypoints) if keypoints else Average()
        size = feature_size(keypoints)
        self.head = nn.Sequential(nn.Linear(size, size), nn.ReLU()) if head else nn.Identity()
        self._colours = inputs == len(MEAN)

    def forward(self, images_NHWC: Tensor) -> Tensor:
        x = images_NHWC.permute(0, 3, 1, 2).float() / 255  # channels stay last in memory
        if self._colours:
            mean, spread = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (MEAN, SPREAD))
        else:
            mean, spread = (torch.tensor(sum(v) / len(v), device=x.device) for v in (MEAN, SPREAD))
        features: Tensor = self.head(self.pool(self.backbone((x - mean) / spread)))
        return features


def feature_size(keypoints: int) -> int:
    """F. keypoints: K, or 0."""
    return 2 * keypoints if keypoints else WIDTHS[-1]


class PackedResNet(Encoder):
    """M encoders of images of one kind."""

    by_step = True

    def __init__(
        self, members: int, inputs: int, kind: str, keypoints: int, norm: Norm = group_norm, head: bool = False
    ) -> None:
        """See `ResNetEncoder`. members: M."""
        super().__init__()
        self.features = feature_size(keypoints)
        self.network = PackedModule(lambda: ResNetEncoder(inputs, kind, keypoints, norm, head), members, buffers=True)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        self.network.init_members(generators)

    @torch.no_grad()
    def load_backbone(self, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Copy weights into the backbone of every member.

        weights: torchvision's name -> weight of one network, of the shape here (`torchvision_shapes`). Returns the
        names of those that the backbone does not have, such as running averages beside GroupNorm.
        """
        left = []
        for name, weight in weights.items():
            own = getattr(self.network, f"backbone.{name}".replace(".", "__"), None)
            if own is None:
                left.append(name)
            else:
                own.copy_(weight.expand_as(own))
        return tuple(left)

    def forward(self, images_MBTHWC: Tensor) -> Tensor:
        """uint8 (M, B, 1, height, width, C) -> features (M, B, F)."""
        return self.network(images_MBTHWC.squeeze(2))


def build(config: Any, image: tuple[int, int, int], members: int) -> PackedResNet:
    """Builder of the ResNet encoders. config: a `ResNetOptions`. image: (height, width, channels) of one step."""
    keypoints = config.image_keypoints if config.image_pool == "spatial_softmax" else 0
    return PackedResNet(
        members, image[2], config.kind, keypoints, NORMS[config.image_norm], config.image_head == "relu"
    )
