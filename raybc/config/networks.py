"""Options of networks: a mixin per network, for the kinds of policy that have it. It does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raybc.config.component import Component
from raybc.config.options import flag_path, option
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig


@dataclass(frozen=True)
class MLPOptions(Component):
    """A multilayer perceptron."""

    hidden_width: int = option(512, at_least=1)
    """Units in a hidden layer."""
    hidden_depth: int = option(4, at_least=1)
    """Hidden layers."""


@dataclass(frozen=True)
class UNetOptions(Component):
    """The conditional 1-D U-Net of Diffusion Policy."""

    unet_channels: str = "256,512,1024"
    """Channels of each level, comma-separated; horizon_length must be a multiple of 2^(levels - 1)."""
    unet_kernel: int = option(5, at_least=1)
    """Kernel of the convolutions, odd."""
    unet_groups: int = option(8, at_least=1)
    """Groups of GroupNorm; they divide the channels."""
    unet_time_size: int = option(256, at_least=4)
    """Size of the time embedding, even."""

    @property
    def channels(self) -> tuple[int, ...]:
        """unet_channels as integers."""
        return tuple(int(c) for c in self.unet_channels.split(","))

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        place = flag_path(where)
        if not all(c.strip().isdecimal() and int(c) > 0 for c in self.unet_channels.split(",")):
            raise UserError(f"{place}unet_channels: expected numbers such as 64,128,256, got {self.unet_channels!r}")
        for name in ("unet_kernel", "unet_time_size"):
            odd = name == "unet_kernel"
            if getattr(self, name) % 2 != odd:
                raise UserError(
                    f"{place}{name}: expected an {'odd' if odd else 'even'} number, got {getattr(self, name)}"
                )
        if any(c % self.unet_groups for c in self.channels):
            raise UserError(
                f"{place}unet_channels: expected multiples of unet_groups = {self.unet_groups}, "
                f"got {self.unet_channels!r}"
            )
        divisor = 2 ** (len(self.channels) - 1)
        if run.chunk_length % divisor:
            below, above = run.chunk_length // divisor * divisor, -(-run.chunk_length // divisor) * divisor
            near = f"{below} or {above}" if below else str(above)
            hint = f"; use {near}" if run.action_chunking else " (action_chunking is off, so a chunk has 1 step)"
            raise UserError(
                f"{place}horizon_length: expected a multiple of {divisor} with the {len(self.channels)} levels of "
                f"unet_channels, got {run.chunk_length}{hint}"
            )
