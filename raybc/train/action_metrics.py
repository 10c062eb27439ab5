"""What the policies in training would do on some windows, compared with the recorded actions.

Whole chunks are sampled, with the weights and the sample setting with which the policy acts. The noise of a member
depends on its seed alone. Nothing here changes training. Norms, cosines and errors are those of action vectors in
physical units; where rotations are learned as rotation_6d, of vectors in that form, as in `raybc.inference.offline`.

Letters: M members, B windows, H chunk, A action dim, K steps of chunks that were recorded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raybc.data.windows import Windows
from raybc.policies.best_of_n import sample_best
from raybc.policies.build import build_policy
from raybc.train.epochs import epoch_of
from raybc.train.loop import PackTrainer
from raybc.train.phases import phase_at
from raybc.train.progress import Progress
from raybc.train.step import generator

#: Maximum number of windows that are sampled together.
BATCH = 256
#: What the noise of the held-out windows is for, and the column of train.csv with an error on training windows.
NOISE, COLUMN = "action_metrics", "sample_mse"
#: Norms below this count as this in a cosine, so that the cosine with a zero vector is 0.
SMALLEST_NORM = 1e-8


@dataclass(frozen=True)
class ActionErrors:
    """Predicted and recorded actions of one member."""

    mse: float
    """Mean squared error over steps and action dimensions."""
    cosine: float
    """Mean cosine between predicted and recorded action vectors."""
    norms_K: np.ndarray
    """L2 norm of each recorded action, float64 (K,)."""
    predicted_norms_K: np.ndarray
    """L2 norm of each predicted action, float64 (K,)."""
    rmse_A: np.ndarray
    """Root mean squared error of each action dimension, float64 (A,)."""

    @classmethod
    def of(cls, predicted_KA: np.ndarray, recorded_KA: np.ndarray) -> ActionErrors:
        """Compare physical actions."""
        predicted, recorded = predicted_KA.astype(np.float64), recorded_KA.astype(np.float64)
        squared_A = ((predicted - recorded) ** 2).mean(0)
        norms, predicted_norms = np.linalg.norm(recorded, axis=1), np.linalg.norm(predicted, axis=1)
        scale = np.maximum(norms, SMALLEST_NORM) * np.maximum(predicted_norms, SMALLEST_NORM)
        cosine = float(((predicted * recorded).sum(1) / scale).mean())
        return cls(float(squared_A.mean()), cosine, norms, predicted_norms, np.sqrt(squared_A))


@dataclass(frozen=True)
class EpochRow:
    """A row of metrics.csv of one member."""

    epoch: int
    """The epoch of the latest step, from 1."""
    step: int
    """Gradient steps so far."""
    phase: str
    """Name of the training phase of the latest step."""
    train_loss: float
    """Mean loss of the training steps since the row before."""
    val_loss: float
    """The loss on the held-out windows, of the weights in training."""
    lr: float
    """Learning rate of the latest step."""
    is_sampled: bool
    """Whether the policy samples, so that its error is that of one sample."""
    actions: ActionErrors

    @property
    def mse_name(self) -> str:
        """The column of the mean squared error."""
        return "sample_mse" if self.is_sampled else "val_mse"

    def values(self) -> dict[str, int | float | str | None]:
        """Column -> value; None for numbers that are not finite."""
        found = self.actions
        numbers = {
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            self.mse_name: found.mse,
            "val_cos": found.cosine,
            "val_norm_gt": float(found.norms_K.mean()),
            "val_norm_pred": float(found.predicted_norms_K.mean()),
            "lr": self.lr,
            **{f"val_rmse_j{i}": float(value) for i, value in enumerate(found.rmse_A, 1)},
        }
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {"epoch": self.epoch, "step": self.step, "phase": self.phase, **finite}


class SampledActions:
    """Chunks that the members of a trainer would execute in some windows, compared with the recorded ones."""

    def __init__(self, trainer: PackTrainer, windows: Windows, noise: str) -> None:
        """noise: what the noise is for; that of different purposes is independent."""
        self._trainer, self._noise = trainer, noise
        # Steps beyond the end of an episode are no recorded actions, even where they are trained on.
        self._windows = dataclasses.replace(windows, padding=dataclasses.replace(windows.padding, in_loss=False))
        # A copy, because the weights that act may be averages, and the policy in training may be wrapped or compiled.
        self._policy = build_policy(trainer.config, trainer.policy.spec, len(trainer.members)).to(trainer.device)
        self._policy.eval().requires_grad_(False)

    @torch.no_grad()
    def errors(self, weights: Mapping[str, Tensor]) -> list[ActionErrors]:
        """Of each member. weights: `PackTrainer.acting_weights`."""
        trainer, windows = self._trainer, self._windows
        past = self._policy.spec.past
        self._policy.load_state_dict(dict(weights))
        noise_of_windows = torch.stack(
            [noise_of(trainer, seed, len(windows.starts), self._noise) for seed in trainer.seeds]
        )
        predicted, recorded, valid = [], [], []
        setting = trainer.config.sample_setting
        for rows in torch.arange(len(windows.starts), device=trainer.device).split(
            min(trainer.config.batch_size, BATCH)
        ):
            batch = windows.gather(rows.expand(len(trainer.members), -1))
            noise = noise_of_windows[:, rows.cpu()].to(trainer.device)
            chunks_MBHA = sample_best(self._policy, batch.obs, noise, setting)
            predicted.append(chunks_MBHA[:, :, past:].float().cpu().numpy())
            recorded.append(batch.actions_MBHA[0, :, past:].cpu().numpy())
            valid.append(~batch.is_pad_MBH[0, :, past:].cpu().numpy())
        invert, is_valid_NH = trainer.prepared.action_normalizer.invert, np.concatenate(valid)
        recorded_KA = invert(np.concatenate(recorded)[is_valid_NH])
        return [
            ActionErrors.of(invert(predicted_NHA[is_valid_NH]), recorded_KA)
            for predicted_NHA in np.concatenate(predicted, axis=1)
        ]


class ActionMetrics(SampledActions):
    """Measures the members of a trainer on the held-out windows."""

    def __init__(self, trainer: PackTrainer) -> None:
        windows = trainer.prepared.validation
        assert windows is not None, "`prepare` refuses action_metrics without held-out episodes"
        super().__init__(trainer, windows, NOISE)

    def rows(self, weights: Mapping[str, Tensor]) -> list[EpochRow]:
        """A row for each member. weights: `PackTrainer.acting_weights`."""
        trainer, found = self._trainer, self.errors(weights)
        phase = phase_at(trainer.phases, trainer.step - 1)
        return [
            EpochRow(
                epoch=epoch_of(trainer.step, trainer.epochs.steps),
                step=trainer.step,
                phase=phase.name,
                train_loss=train,
                val_loss=held_out,
                lr=rate,
                is_sampled="eval_temperature" in trainer.config.sample_axes,
                actions=actions,
            )
            for train, held_out, rate, actions in zip(
                trainer.epochs.losses(), trainer.validate(), trainer.epochs.rates, found, strict=True
            )
        ]


class SampleError:
    """`train/sample_mse`: the error of sampled actions on windows of the training episodes, evenly spaced."""

    def __init__(self, trainer: PackTrainer) -> None:
        self._trainer = trainer
        self._sampled: SampledActions | None = None
        if trainer.config.sample_mse:
            windows = trainer.prepared.rotation.at(0)
            count = len(windows.starts)
            chosen = torch.linspace(0, count - 1, min(count, BATCH)).round().long().to(windows.starts.device)
            self._sampled = SampledActions(trainer, dataclasses.replace(windows, starts=windows.starts[chosen]), COLUMN)

    def added(self, progress: Progress) -> Progress:
        """The report with the error of each member, if the run asks for it. Must be called on all ranks."""
        if self._sampled is None:
            return progress
        found = [errors.mse for errors in self._sampled.errors(self._trainer.acting_weights())]
        return dataclasses.replace(progress, metrics=progress.metrics | {COLUMN: found})


def noise_of(trainer: PackTrainer, seed: int, windows: int, purpose: str = NOISE) -> Tensor:
    """The noise that one member starts from in each window, on the CPU so that it is the same on every device, float32
    (N, H, A); with several candidates (`best_of_n`) float32 (N, candidates, H, A), each with a stream of its own."""
    spec, count = trainer.policy.spec, trainer.config.best_of_n
    shape = windows, spec.horizon, spec.action_size
    streams = [generator(torch.device("cpu"), seed, purpose, *([k] if k else [])) for k in range(count)]
    drawn = [torch.randn(shape, generator=stream) for stream in streams]
    return (torch.stack(drawn, 1) if count > 1 else drawn[0]) * trainer.config.eval_temperature
