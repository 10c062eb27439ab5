"""A diffusion transformer (DiT) over the steps of a chunk, with observation tokens.

Peebles and Xie 2023, "Scalable Diffusion Models with Transformers"; observations as keys and values that do not change
between flow steps: Black et al. 2024, "pi0". The chunk is H tokens, linear maps of an action plus a learned position;
the observation is P tokens (`Tokens`). Each of L layers, with LayerNorm without weights,

    x <- x + gate_1 * attention(scale_1 * norm(x) + shift_1;  keys and values: of these tokens and of the observation)
    x <- x + gate_2 * down(gelu(up(scale_2 * norm(x) + shift_2)))                                    (width 4 D)

and at last out(scale * norm(x) + shift). All gates, scales and shifts, and out, are zero at the start (scales: one), so
that every layer starts as the identity (adaLN-zero). They are a linear map of silu(time embedding) plus one of
silu(linear map of the observation). The second one, and the keys and values of the observation in all layers, are
computed once per chunk by `condition`.

Letters: M members, B batch, H chunk, A action dim, F features of the observation, T observation steps, O observation
dim, D width, N heads, L layers, P observation tokens, S gates, scales and shifts of all layers, X tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from raybc.policies.base import PolicySpec
from raybc.policies.fields.base import Field
from raybc.policies.fields.time import sinusoids
from raybc.policies.frozen import can_freeze, is_acting
from raybc.policies.packed import EPS, PackedLinear, gelu, norm

if TYPE_CHECKING:
    from raybc.config import RunConfig

#: Size of the sinusoids of the time, as in DiT.
TIME_SIZE = 256
#: Standard deviation of positions at the start.
POSITION_STD = 0.02
#: Shifts, scales and gates in a layer, and of the output.
PER_LAYER, OF_OUTPUT = 6, 2


class TokenLinear(PackedLinear):
    """M linear layers over the last axis: (M, B, X, I) -> (M, B, X, O) or (M, B, I) -> (M, B, O).

    Initialised by Glorot's rule (Glorot and Bengio 2010), as in DiT, or with zeros.
    """

    def __init__(self, members: int, inputs: int, outputs: int, bias: bool = True, zero: bool = False) -> None:
        super().__init__(members, inputs, outputs, bias)
        self.zero = zero

    @torch.no_grad()
    def init_member(self, m: int, generator: torch.Generator) -> None:
        inputs, outputs = self.weights_MIO.shape[1:]
        if self.bias_M1O is not None:
            self.bias_M1O[m] = 0.0
        if self.zero:
            self.weights_MIO[m] = 0.0
            return
        bound = math.sqrt(6 / (inputs + outputs))
        self.weights_MIO[m] = bound * (2 * torch.rand(inputs, outputs, generator=generator) - 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            return super().forward(x)
        return super().forward(x.flatten(1, 2)).unflatten(1, (-1, int(x.shape[2])))


class Seen(NamedTuple):
    """What the network needs of an observation, once per chunk."""

    modulation_MBS: Tensor
    """The part of all gates, scales and shifts that depends on the observation."""
    keys: Sequence[Tensor]
    """Of the observation tokens in each layer, (M * B, N, P, D / N)."""
    values: Sequence[Tensor]


class Tokens(nn.Module):
    """Observation tokens, (M, B, F) -> (M, B, P, D): one for each observation step, one for each image, and one for the
    instruction.

    `ImageEncoders.encode` begins with the low-dimensional observations of all T steps; each step is a token. The
    features of all images follow, and those of the instruction. A token of an image is a linear map of the features of
    all images. Each token has a learned position.
    """

    def __init__(self, members: int, spec: PolicySpec, features: int, width: int) -> None:
        super().__init__()
        self.split = (spec.obs_size, features - spec.obs_size - spec.language_features, spec.language_features)
        self.steps = spec.obs_steps if spec.low_dim_size else 0
        self.images = len(spec.images)
        self.low_dim = TokenLinear(members, spec.low_dim_size, width) if self.steps else None
        self.image = TokenLinear(members, self.split[1], self.images * width) if self.images else None
        self.language = TokenLinear(members, self.split[2], width) if spec.language else None
        count = self.steps + self.images + bool(spec.language)
        self.position_M1PD = nn.Parameter(torch.empty(members, 1, count, width))

    def forward(self, cond_MBF: Tensor) -> Tensor:
        low_dim, images, language = cond_MBF.split(self.split, dim=-1)
        tokens = []
        if self.low_dim is not None:
            tokens.append(self.low_dim(low_dim.unflatten(-1, (self.steps, -1))))
        if self.image is not None:
            tokens.append(self.image(images).unflatten(-1, (self.images, -1)))
        if self.language is not None:
            tokens.append(self.language(language).unsqueeze(2))
        return torch.cat(tokens, dim=2) + self.position_M1PD


class Layer(nn.Module):
    """Attention and a feed-forward network, both with a residual connection: (M, B, H, D) -> the same."""

    recompute_unit = True

    def __init__(self, members: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend = TokenLinear(members, width, 3 * width)
        self.attended = TokenLinear(members, width, width)
        self.up = TokenLinear(members, width, 4 * width)
        self.down = TokenLinear(members, 4 * width, width)

    def forward(self, x: Tensor, modulation_MB1S: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation_MB1S.chunk(PER_LAYER, dim=-1)
        x = torch.addcmul(x, gate_1, self.attention(torch.addcmul(shift_1, norm(x), scale_1), keys, values))
        return torch.addcmul(x, gate_2, self.down(gelu(self.up(torch.addcmul(shift_2, norm(x), scale_2)))))

    def attention(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Of all heads. keys, values: of the observation tokens."""
        q, k, v = split_heads(self.attend(x), 3, self.heads)
        k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.attended(y.transpose(1, 2).flatten(2).unflatten(0, (x.shape[0], -1)))


def ones_at_scales(modulation: Tensor, layers: int) -> Tensor:
    """1 at scales, 0 at gates and shifts, (S,)."""
    one = modulation.new_zeros(PER_LAYER * layers + OF_OUTPUT, modulation.shape[-1] // (PER_LAYER * layers + OF_OUTPUT))
    one[1 : -OF_OUTPUT : PER_LAYER // 2] = 1
    one[-1] = 1
    return one.flatten()


def split_heads(x: Tensor, parts: int, heads: int) -> Sequence[Tensor]:
    """(M, B, X, parts * D) -> `parts` times (M * B, N, X, D / N)."""
    x = x.flatten(0, 1).unflatten(2, (parts * heads, -1)).transpose(1, 2)
    return x.chunk(parts, dim=1)


class TransformerField(Field):
    """M networks; `heads` must divide `width`."""

    zero_gates = True
    frozen: FrozenTransformer | None = None
    """The network for acting."""

    def __init__(self, members: int, spec: PolicySpec, features: int, *, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        modulation = width * (PER_LAYER * layers + OF_OUTPUT)
        self.tokens = Tokens(members, spec, features, width)
        self.seen = TokenLinear(members, width, 2 * width * layers)
        self.observe = TokenLinear(members, features, width)
        self.modulate = TokenLinear(members, width, modulation, zero=True)
        self.time_in = TokenLinear(members, TIME_SIZE, width)
        self.time_out = TokenLinear(members, width, width)
        self.modulate_time = TokenLinear(members, width, modulation, bias=False, zero=True)
        self.act = TokenLinear(members, spec.action_size, width)
        self.position_M1HD = nn.Parameter(torch.empty(members, 1, spec.horizon, width))
        self.layers = nn.ModuleList(Layer(members, width, heads) for _ in range(layers))
        self.out = TokenLinear(members, width, spec.action_size, zero=True)

    @torch.no_grad()
    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        positions = (self.tokens.position_M1PD, self.position_M1HD)
        for m, generator in enumerate(generators):
            for module in self.modules():
                if isinstance(module, TokenLinear):
                    module.init_member(m, generator)
            for position in positions:
                position[m] = POSITION_STD * torch.randn(position.shape[1:], generator=generator)

    def condition(self, cond_MBF: Tensor) -> Seen:
        """Computed once per chunk."""
        if self.frozen is not None and is_acting():
            return self.frozen.condition(cond_MBF[0])
        parts = split_heads(self.seen(norm(self.tokens(cond_MBF))), 2 * len(self.layers), self.heads)
        modulation_MBS = self.modulate(functional.silu(self.observe(cond_MBF)))
        return Seen(modulation_MBS + ones_at_scales(modulation_MBS, len(self.layers)), parts[::2], parts[1::2])

    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Seen) -> Tensor:
        """f(x, t | obs), (M, B, H, A). t_MB1: (M, 1, 1) if all rows share it."""
        modulation_MB1S = (condition.modulation_MBS + self.of_time(t_MB1)).unsqueeze(2)
        if self.frozen is not None and is_acting():
            return self.frozen(x_MBHA[0], modulation_MB1S[0], condition).unsqueeze(0)
        width = self.position_M1HD.shape[-1]
        *ofs, last = modulation_MB1S.split([PER_LAYER * width] * len(self.layers) + [OF_OUTPUT * width], dim=-1)
        x = self.act(x_MBHA) + self.position_M1HD
        for layer, modulation, keys, values in zip(self.layers, ofs, condition.keys, condition.values, strict=True):
            x = layer(x, modulation, keys, values)
        shift, scale = last.chunk(2, dim=-1)
        out: Tensor = self.out(torch.addcmul(shift, norm(x), scale))
        return out

    def time_part(self, t_MB1: Tensor) -> Tensor:
        """The part of all gates, scales and shifts that depends on the time, (M, B, S)."""
        time_MBD = self.time_out(functional.silu(self.time_in(sinusoids(t_MB1, TIME_SIZE))))
        modulation_MBS: Tensor = self.modulate_time(functional.silu(time_MBD))
        return modulation_MBS

    def prepare_for_acting(self) -> None:
        if can_freeze(self):
            super().prepare_for_acting()
            self.frozen = FrozenTransformer(self)


class FrozenTransformer:
    """A `TransformerField` of one member for acting: (B, H, A) -> (B, H, A)."""

    def __init__(self, field: TransformerField) -> None:
        self.heads, self.tokens = field.heads, field.tokens
        self.observe, self.modulate, self.seen = (part.freeze() for part in (field.observe, field.modulate, field.seen))
        tokens = field.tokens
        self.low_dim, self.image, self.language = (
            None if part is None else part.freeze() for part in (tokens.low_dim, tokens.image, tokens.language)
        )
        self.act, self.out, self.position_1HD = field.act.freeze(), field.out.freeze(), field.position_M1HD.detach()[0]
        layers: list[Any] = list(field.layers)
        self.layers = [
            tuple(part.freeze() for part in (layer.attend, layer.attended, layer.up, layer.down)) for layer in layers
        ]

    def condition(self, cond_BF: Tensor) -> Seen:
        """See `TransformerField.condition`. keys: keys and values of each layer, (B, P + H, 2 D), whose last H rows are
        those of the chunk's tokens at the latest evaluation. values: none."""
        batch, tokens = cond_BF.shape[0], self.tokens
        low_dim, images, language = cond_BF.split(tokens.split, dim=-1)
        parts = []
        if self.low_dim is not None:
            parts.append(self.low_dim(low_dim.reshape(batch * tokens.steps, -1)).view(batch, tokens.steps, -1))
        if self.image is not None:
            parts.append(self.image(images).view(batch, tokens.images, -1))
        if self.language is not None:
            parts.append(self.language(language).unsqueeze(1))
        x_BPD = torch.cat(parts, dim=1) + tokens.position_M1PD[0]
        seen_BPS = self.seen(norm(x_BPD).flatten(0, 1)).view(batch, x_BPD.shape[1], -1)
        below = seen_BPS.new_empty(batch, self.position_1HD.shape[1], seen_BPS.shape[2] // len(self.layers))
        kept = [torch.cat([part, below], dim=1) for part in seen_BPS.chunk(len(self.layers), dim=-1)]
        modulation_BS = self.modulate(functional.silu(self.observe(cond_BF)))
        return Seen((modulation_BS + ones_at_scales(modulation_BS, len(self.layers))).unsqueeze(0), kept, ())

    def __call__(self, x_BHA: Tensor, modulation_B1S: Tensor, condition: Seen) -> Tensor:
        batch, steps, _ = x_BHA.shape
        width = self.position_1HD.shape[-1]
        x = self.act(x_BHA.flatten(0, 1)).view(batch, steps, width) + self.position_1HD
        parts = modulation_B1S.split(width, dim=-1)
        for n, (layer, kept) in enumerate(zip(self.layers, condition.keys, strict=True)):
            attend, attended, up, down = layer
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts[PER_LAYER * n : PER_LAYER * (n + 1)]
            y = attend(modulated(x, shift_1, scale_1).view(-1, width)).view(batch, steps, -1)
            kept[:, -steps:] = y[..., width:]
            y = attended(self.attention(y[..., :width], kept))
            x = torch.addcmul(x, gate_1, y.view(batch, steps, width))
            y = down(up(modulated(x, shift_2, scale_2).view(-1, width), gelu=True))
            x = torch.addcmul(x, gate_2, y.view(batch, steps, width))
        return self.out(modulated(x, *parts[-OF_OUTPUT:]).view(-1, width)).view_as(x_BHA)

    def attention(self, queries_BHD: Tensor, kept: Tensor) -> Tensor:
        """(B, H, D) and keys and values (B, P + H, 2 D) -> (B * H, D)."""
        batch, steps, width = queries_BHD.shape
        size = (self.heads, width // self.heads)
        q = queries_BHD.unflatten(2, size).transpose(1, 2)
        k, v = kept.unflatten(2, (2, *size)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(batch * steps, width)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """scale * norm(x) + shift: in one call, with the same bits, for a single example."""
    if len(x) == 1:
        return functional.layer_norm(x, x.shape[-1:], scale[0, 0], shift[0, 0], EPS)
    return torch.addcmul(shift, norm(x), scale)


def build(run: RunConfig, spec: PolicySpec, features: int, members: int) -> TransformerField:
    """The network of `--policy flow_transformer`."""
    layers, heads, width = run.policy.sizes  # type: ignore[attr-defined]  # of TransformerOptions
    return TransformerField(members, spec, features, layers=layers, heads=heads, width=width)
