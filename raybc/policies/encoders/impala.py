"""Encoders of images for a pack of members.

`impala_small`, `impala` and `impala_large`: the residual network of IMPALA (Espeholt et al. 2018, figure 3, right) with
the sizes and features that have these names in OGBench and qc. Each stack is a 3 x 3 convolution, a pooling that halves
the image, and residual blocks `x + conv(relu(conv(relu(x))))`. A linear layer with GELU follows.

Every parameter has a leading member axis. Convolutions run member by member, because grouped convolutions take 1.0 to 3
times as long on a CPU, depending on the size. Letters: M members, B batch,
T observation steps, C channels, I, O channels in and out, K kernel size, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raybc.policies.base import Encoder
from raybc.policies.packed import PackedLinear, gelu

KERNEL = 3


class PackedConv(nn.Module):
    """M 3 x 3 convolutions that keep the size of the image; `forward` runs one member."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weights_MOIKK = nn.Parameter(torch.empty(members, outputs, inputs, KERNEL, KERNEL))
        self.bias_MO = nn.Parameter(torch.empty(members, outputs))

    def init_member(self, m: int, generator: torch.Generator) -> None:
        """Weights uniform in +-sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010), bias zero."""
        outputs, inputs = self.weights_MOIKK.shape[1:3]
        bound = math.sqrt(6 / (KERNEL**2 * (inputs + outputs)))
        with torch.no_grad():
            uniform = torch.rand(outputs, inputs, KERNEL, KERNEL, generator=generator)
            self.weights_MOIKK[m] = bound * (2 * uniform - 1)
            self.bias_MO[m] = 0.0

    def forward(self, x: Tensor, m: int) -> Tensor:
        return functional.conv2d(x, self.weights_MOIKK[m], self.bias_MO[m], padding=KERNEL // 2)


class _Stack(nn.Module):
    """One stack of convolution, pooling and residual blocks."""

    def __init__(self, members: int, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.first = PackedConv(members, inputs, outputs)
        self.blocks = nn.ModuleList(PackedConv(members, outputs, outputs) for _ in range(2 * blocks))

    def forward(self, x: Tensor, m: int) -> Tensor:
        x = halved(self.first(x, m))
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = x + second(functional.relu(first(functional.relu(x), m)), m)
        return x


def halved(x: Tensor) -> Tensor:
    """3 x 3 max pooling with stride 2, (..., h, w) -> (..., ceil(h / 2), ceil(w / 2)).

    Padding is "SAME" as in TensorFlow and JAX: odd padding goes to the right and the bottom.
    """
    odd = (int(x.shape[-2]) % 2, int(x.shape[-1]) % 2)  # int: sizes are constants of an exported graph
    return functional.max_pool2d(x, 3, stride=2, padding=odd, ceil_mode=True)


class PackedImpala(Encoder):
    """M encoders of images of one kind."""

    def __init__(
        self, members: int, image: tuple[int, int, int], channels: Sequence[int], blocks: int, features: int
    ) -> None:
        """
        Args:
            members: M.
            image: (height, width, channels of all observation steps).
            channels: channels of each stack.
            blocks: residual blocks per stack.
            features: F, the size of the output.
        """
        super().__init__()
        height, width, inputs = image
        self.features = features
        self.stacks = nn.ModuleList()
        for outputs in channels:
            self.stacks.append(_Stack(members, inputs, outputs, blocks))
            inputs, height, width = outputs, math.ceil(height / 2), math.ceil(width / 2)
        self.head = PackedLinear(members, inputs * height * width, features)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise the weights; member m depends on generators[m] alone."""
        for m, generator in enumerate(generators):
            for layer in self.modules():
                if isinstance(layer, (PackedConv, PackedLinear)):
                    layer.init_member(m, generator)

    def forward(self, images_MBTHWC: Tensor) -> Tensor:
        """uint8 (M, B, T, height, width, C) -> features (M, B, F)."""
        seen = torch.stack([self._seen(images_BTHWC, m) for m, images_BTHWC in enumerate(images_MBTHWC)])
        return gelu(self.head(seen))

    def _seen(self, images_BTHWC: Tensor, m: int) -> Tensor:
        # Keep channels last in memory, which is also the fastest layout for convolutions.
        x = images_BTHWC.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2).float() / 255
        for stack in self.stacks:
            x = stack(x, m)
        return functional.relu(x).flatten(1)


def build(config: Any, image: tuple[int, int, int], members: int) -> PackedImpala:
    """Builder of the IMPALA encoders. config: an `EncoderConfig`."""
    return PackedImpala(members, image, config.channels, config.blocks, config.features)
