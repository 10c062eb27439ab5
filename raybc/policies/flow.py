"""Flow-matching behaviour cloning with action chunking, for any velocity field.

    x_t = (1 - t) x_0 + t x_1,   x_0 ~ N(0, I),   x_1 = expert's chunk,   t ~ U[0, 1)
    loss = mean over valid chunk entries of || v(x_t, t | obs) - (x_1 - x_0) ||^2
    sample: x <- x_0;  integrate dx/dt = v(x, t | obs) from t = 0 to 1 in S steps of a solver (`policies/solvers.py`)

(Lipman et al. 2023, "Flow Matching for Generative Modeling", optimal-transport path.) Other distributions of t:

    beta          t = 0.999 (1 - u^(2/3)), u ~ U[0, 1): more noise (Black et al. 2024, "pi0", appendix B: Beta(1.5, 1))
    logit_normal  t = 1 / (1 + e^-n), n ~ N(0, 1): the middle (Esser et al. 2024, "Scaling Rectified Flow Transformers")

t = 0 is noise, t = 1 is data. Letters: M members, B batch, H chunk, A action dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from raybc.policies.base import Draws, DrawShape, Loss, mean_over_valid
from raybc.policies.chunk import ChunkPolicy
from raybc.policies.solvers import integrate
from raybc.types import Batch, SampleSetting

if TYPE_CHECKING:
    from raybc.config import RunConfig

#: pi0: Beta(1.5, 1) scaled so that no time above this is drawn.
LATEST, ALPHA = 0.999, 1.5


class FlowPolicy(ChunkPolicy):
    """A pack of M flow policies."""

    flow_time: Literal["uniform", "beta", "logit_normal"] = "uniform"
    """Distribution of t in training."""

    def configure(self, run: RunConfig) -> None:
        config: Any = run.policy
        self.flow_time = config.flow_time

    def draws(self) -> Mapping[str, DrawShape]:
        time = "normal" if self.flow_time == "logit_normal" else "uniform"
        shape = (self.spec.horizon, self.spec.action_size)
        return {"noise": DrawShape("normal", shape), "time": DrawShape(time)}  # type: ignore[arg-type]

    def times(self, drawn: Tensor) -> Tensor:
        """t in [0, 1] from the draw `time`."""
        if self.flow_time == "beta":
            return LATEST * (1 - drawn ** (1 / ALPHA))
        return torch.sigmoid(drawn) if self.flow_time == "logit_normal" else drawn

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """The flow-matching loss, averaged over valid entries. draws: noise (M, B, H, A), time (M, B)."""
        x_1, x_0, time = batch.actions_MBHA, draws["noise"], self.times(draws["time"])
        t_MB11 = time[..., None, None]
        x_t = (1 - t_MB11) * x_0 + t_MB11 * x_1
        velocity = self.velocity_field(x_t, time[..., None], self.condition(batch.obs))
        loss_MB = mean_over_valid((velocity - (x_1 - x_0)) ** 2, batch.is_pad_MBH)
        return Loss(loss_MB, {"bc_flow_loss": loss_MB})

    def sample_encoded(self, cond_MBF: Tensor, noise_MBHA: Tensor, setting: SampleSetting) -> Tensor:
        """Integrate the flow from the noise with `flow_steps` steps of `solver`; float32 (M, B, H, A)."""
        condition = self.velocity_field.condition(cond_MBF)

        def velocity(x: Tensor, t: float) -> Tensor:
            v: Tensor = self.velocity_field(x, x.new_full((x.shape[0], 1, 1), t), condition)
            return v

        return integrate(velocity, noise_MBHA, setting.flow_steps, setting.solver)
