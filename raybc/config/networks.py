"""Options of networks: a mixin per network, for the kinds of policy that have it. It does not import PyTorch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from raybc.config.component import Component
from raybc.config.options import flag_path, option
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig


_EQUAL = ({"hidden_widths": ""},)
_PLAIN = ({"hidden_block": "plain"},)


@dataclass(frozen=True)
class MLPOptions(Component):
    """A multilayer perceptron."""

    hidden_width: int = option(512, at_least=1, only_with=_EQUAL)
    """Units in a hidden layer; with residual blocks the width of what they add to."""
    hidden_depth: int = option(4, at_least=1, only_with=_EQUAL)
    """Hidden layers, or residual blocks."""
    hidden_widths: str = option("", only_with=_PLAIN)
    """Units of each hidden layer, such as "256,128", in place of hidden_width and hidden_depth (empty: those)."""
    hidden_activation: Literal["gelu", "relu"] = option("gelu", only_with=_PLAIN)
    """After each hidden layer of a plain perceptron."""
    hidden_block: Literal["plain", "residual"] = "plain"
    """plain: linear layers and GELU. residual: x + down(gelu(up(LayerNorm(x)))), with 4 hidden_width units within."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        if self.hidden_widths:
            return tuple(int(width) for width in self.hidden_widths.split(","))
        return (self.hidden_width,) * self.hidden_depth

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        place = flag_path(where)
        if self.hidden_widths and not all(re.fullmatch(r" *[1-9]\d{0,8} *", w) for w in self.hidden_widths.split(",")):
            raise UserError(f"{place}hidden_widths: expected numbers such as 256,128, got {self.hidden_widths!r}")
        if self.hidden_block == "residual":
            for name, default in (("hidden_widths", ""), ("hidden_activation", "gelu")):
                if getattr(self, name) != default:
                    raise UserError(f"{place}{name}: has no effect with hidden_block residual; use hidden_block plain")


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


#: `transformer_size` -> layers, heads, width.
TRANSFORMER_SIZES = {"tiny": (4, 4, 128), "small": (8, 4, 256), "base": (12, 12, 768)}


@dataclass(frozen=True)
class TransformerOptions(Component):
    """A diffusion transformer (DiT)."""

    transformer_size: Literal["tiny", "small", "base"] = option(
        "small", only_with=({"transformer_layers": 0}, {"transformer_heads": 0}, {"transformer_width": 0})
    )
    """Layers, heads and width: tiny 4, 4, 128; small 8, 4, 256 (Diffusion Policy's); base 12, 12, 768 (DiT-B's)."""
    transformer_layers: int = option(0, at_least=0)
    """Layers; 0: by transformer_size."""
    transformer_heads: int = option(0, at_least=0)
    """Heads of attention, a divisor of the width; 0: by transformer_size."""
    transformer_width: int = option(0, at_least=0)
    """Width of a token; 0: by transformer_size."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Layers, heads, width."""
        layers, heads, width = TRANSFORMER_SIZES[self.transformer_size]
        return self.transformer_layers or layers, self.transformer_heads or heads, self.transformer_width or width

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        _, heads, width = self.sizes
        if width % heads:
            divisors = [n for n in range(1, width + 1) if width % n == 0]
            near = [n for n in divisors if n < heads][-1:] + [n for n in divisors if n > heads][:1]
            raise UserError(
                f"{flag_path(where)}transformer_heads: expected a divisor of the width {width}, got {heads}; "
                f"use {' or '.join(map(str, near))}"
            )
