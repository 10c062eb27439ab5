"""Flow-matching behaviour cloning with action chunking.

    x_t = (1 - t) x_0 + t x_1,   x_0 ~ N(0, I),   x_1 = expert's chunk,   t ~ U[0, 1)
    loss = mean over valid chunk entries of || v(x_t, t | obs) - (x_1 - x_0) ||^2
    sample: x <- x_0;  for i = 0 .. S-1:  x <- x + v(x, i / S | obs) / S

(Lipman et al. 2023, "Flow Matching for Generative Modeling", optimal-transport path; Euler integration.)
t = 0 is noise, t = 1 is data. Letters: M members, B batch, O observation dim, H chunk, A action dim, F what the field
is told of an observation: its numbers, then the features of its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raybc.policies.base import PolicyShape
from raybc.policies.encoders import IMPALA, PackedImpala
from raybc.policies.nets import PackedMLP, fourier_features
from raybc.types import Batch

FREQUENCIES = 8


class FlowPolicy(nn.Module):
    """A pack of M flow policies whose vector field is an MLP of (obs, x_t, t); each kind of image has an encoder."""

    def __init__(
        self,
        shape: PolicyShape,
        *,
        width: int,
        depth: int,
        use_fourier_features: bool,
        encoder: str = "None",
        members: int = 1,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.members = members
        self.use_fourier_features = use_fourier_features
        # Names of modules have no dots.
        self._encoder_of = {name: name.replace(".", "_") for name, _ in shape.images}
        self.encoders = nn.ModuleDict(
            {self._encoder_of[name]: PackedImpala(members, size, IMPALA[encoder]) for name, size in shape.images}
        )
        chunk = shape.horizon * shape.action_size
        told = shape.obs_size + len(shape.images) * (IMPALA[encoder].features if shape.images else 0)
        inputs = told + chunk + (2 * FREQUENCIES if use_fourier_features else 1)
        self.field = PackedMLP(members, inputs, chunk, width, depth)

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """Initial weights; member m depends on generators[m] alone."""
        self.field.init_members(generators)
        for encoder in self.encoders.values():
            assert isinstance(encoder, PackedImpala)
            encoder.init_members(generators)

    def draw_size(self, batch_size: int) -> tuple[int, int]:
        return batch_size * self.shape.horizon * self.shape.action_size, batch_size

    def observe(self, obs_MBO: Tensor, images: Mapping[str, Tensor]) -> Tensor:
        """What the field is told of observations, (M, B, F)."""
        seen = [self.encoders[module](images[name]) for name, module in self._encoder_of.items()]
        return torch.cat([obs_MBO, *seen], dim=-1) if seen else obs_MBO

    def velocity(self, cond_MBF: Tensor, x_MBHA: Tensor, t_MB1: Tensor) -> Tensor:
        """v(x, t | obs), (M, B, H, A)."""
        time = fourier_features(t_MB1, FREQUENCIES) if self.use_fourier_features else t_MB1
        out = self.field(torch.cat([cond_MBF, x_MBHA.flatten(2), time], dim=-1))
        return out[..., : x_MBHA[0, 0].numel()].unflatten(-1, x_MBHA.shape[2:])  # beyond: padding of `pad_outputs`

    def loss(self, batch: Batch, noise: Tensor, time: Tensor) -> Tensor:
        """Flow-matching loss of each example, float32 (M, B).

        noise: standard normal, (M, B*H*A). time: uniform in [0, 1), (M, B). The mean runs over valid entries only.
        """
        x_1 = batch.actions_MBHA
        x_0 = noise.view_as(x_1)
        t_MB11 = time[..., None, None]
        x_t = (1 - t_MB11) * x_0 + t_MB11 * x_1
        cond_MBF = self.observe(batch.obs_MBO, batch.images)
        error_MBHA = (self.velocity(cond_MBF, x_t, time[..., None]) - (x_1 - x_0)) ** 2
        valid_MBH = ~batch.is_pad_MBH
        # The first step of a chunk is never padding, so no example is without a valid entry.
        return (error_MBHA.mean(-1) * valid_MBH).sum(-1) / valid_MBH.sum(-1)

    def forward(self, batch: Batch, noise: Tensor, time: Tensor) -> Tensor:
        """`loss`: what wrappers of modules (DistributedDataParallel) call."""
        return self.loss(batch, noise, time)

    def sample(
        self, obs_MBO: Tensor, noise_MBHA: Tensor, flow_steps: int, images: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Integrate the flow from `noise` with `flow_steps` Euler steps; (M, B, H, A), normalised."""
        cond_MBF = self.observe(obs_MBO, images or {})
        x = noise_MBHA
        for i in range(flow_steps):
            t_MB1 = torch.full_like(x[..., 0, :1], i / flow_steps)
            x = x + self.velocity(cond_MBF, x, t_MB1) / flow_steps
        return x
