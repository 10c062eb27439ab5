"""`PackTrainer` trains the members of one recipe together. It needs neither Ray nor a simulator.

Letters: M members, N transitions, O observation dim, A action dim, B batch.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raybc.config import RunConfig
from raybc.config.run import check_alike
from raybc.data.windows import Windows
from raybc.policies.augment import augmentation_of
from raybc.policies.base import DrawShape, Policy, PolicySpec
from raybc.train.arithmetic import with_arithmetic
from raybc.train.data import TrainingData, prepare, resolved
from raybc.train.dtensor import gather_full
from raybc.train.epochs import EpochMeter
from raybc.train.feed import ImageFeed, feed_of
from raybc.train.initial import load_start
from raybc.train.learner import learner_of
from raybc.train.non_finite import non_finite_examples
from raybc.train.optimizer import Ema, PackOptimizer, matrices_of
from raybc.train.phases import Phase, phase_at
from raybc.train.plans import lr_scale_of, sampler_of
from raybc.train.pretrained import load_pretrained
from raybc.train.progress import BeforeStep, OnEpoch, OnLog, Progress
from raybc.train.ranks import Ranks
from raybc.train.recompute import recompute_activations
from raybc.train.rotation import ShardRotation
from raybc.train.schedule import LossMonitor, is_finished, is_monitored, rates, restarted, round_of
from raybc.train.step import (
    STEPS_PER_BLOCK,
    DrawSource,
    LossOf,
    NonFiniteLoss,
    StepDraws,
    are_moderate,
    backward,
    clip_by_member,
    generator,
)
from raybc.train.validation import validation_loss
from raybc.types import Batch, UserError

if TYPE_CHECKING:  # imported where files are written, so that training itself works without safetensors
    from raybc.bundle import PolicyBundle
    from raybc.train.checkpointing import State


def with_seeds(config: RunConfig, seeds: Sequence[int]) -> list[RunConfig]:
    """The members of a recipe: one for each seed."""
    return [dataclasses.replace(config, seed=seed) for seed in seeds]


class PackTrainer:
    """Trains a pack of M members, which may differ in `MEMBER_FIELDS`.

    Member m has the same weights, data order, noise, learning rates and early stopping as if it were trained alone.
    """

    def __init__(
        self,
        members: Sequence[RunConfig],
        data: TrainingData,
        device: torch.device,
        ranks: Ranks | None = None,
        resumes: bool = False,
    ) -> None:
        """
        Args:
            members: options of each member.
            data: what to train on.
            device: where to train.
            ranks: the processes that share each batch.
            resumes: `load_state` follows, so files of initial weights are not read.
        """
        check_alike(members)
        self.members = [resolved(config, data.store) for config in members]
        config = self.config = self.members[0]
        self.ranks = ranks or Ranks()
        self.ranks.check(self.members)
        self.data, self.device = data, device
        self.seeds = tuple(c.seed for c in self.members)
        self.scale_floor = True
        self.prepared = prepare(config, data, device)
        seen, action_size = self.prepared, data.store.actions_NA.shape[1]
        read = seen.instructions.size if seen.instructions is not None else 0
        sizes = seen.form.size, config.chunk_length, config.obs_steps, read
        spec = PolicySpec.of(seen.obs_sizes, seen.images, *sizes, config.chunk_length - config.ahead_length)
        self.learner = learner_of(config, spec, len(self.members))
        # Initial weights are drawn on the CPU, so that they are the same on every device.
        self.learner.init_members([generator(torch.device("cpu"), s, "init") for s in self.seeds])
        self.pretrained = "" if resumes else load_pretrained(config, self.learner.policy)
        """What the encoders start from, for the user; empty for random weights."""
        if config.activation_checkpointing and not recompute_activations(self.learner.module):
            raise UserError("activation_checkpointing: expected a policy with a transformer or a U-Net")
        starts = bool(config.init_from) and not resumes
        self.start = load_start(config, seen, action_size, self.learner.policy_weights()) if starts else None
        self.learner.begin(seen)
        self.learner.module.to(device)
        self.step = 0
        self._phase: Phase | None = None
        self._loss_of = self._loss_function()
        named = self.learner.parameters()
        self.parameters = list(named.values())
        self.optimizer = PackOptimizer(named, self.members, matrices_of(self.learner.policy))
        decays = [c.ema_decay for c in self.members]
        self.ema = Ema(named, decays, [c.ema_power for c in self.members]) if any(decays) else None
        self._clipped, clips = self.learner.clipped(), [c.grad_clip for c in self.members]
        self._clip_M = torch.tensor([c or float("inf") for c in clips], device=device) if any(clips) else None
        plan = self.prepared.plan
        self._sampler = sampler_of(config, plan)
        self._augment = augmentation_of(config.encoder, spec.images)
        # After the others, which do not depend on it.
        self._shapes = {**self.learner.draws(), **(self._augment.draws() if self._augment else {})}
        self.draws = self._draws_of(self._shapes)
        self._feed = self._feed_of()
        self._lr_scale = lr_scale_of(config, plan)
        self.monitors = [LossMonitor() for _ in self.members]
        self._monitored = any(map(is_monitored, self.members))
        self.validation_loss: list[float] | None = None
        steps = self.prepared.steps_per_epoch(config.batch_size)
        self.epochs = EpochMeter(steps, config.action_metrics, len(self.members), device)
        self.loss_sum_M = torch.zeros(len(self.members), device=device, dtype=torch.float64)
        self._bad = torch.zeros((), device=device)
        self._good = torch.zeros((), device=device)
        self._checked = 0
        # Reading a value waits for all queued GPU work, so on a GPU losses are checked only now and then.
        self._reads_values = device.type == "cpu" and not self.ranks.sharded
        self.before_step: BeforeStep | None = None
        """Called before each update."""

    @property
    def policy(self) -> Policy:
        """The pack of policies in training."""
        return self.learner.policy

    @property
    def finished(self) -> bool:
        """Whether the budget is used up, or every member has stopped early."""
        return is_finished(self.config, self.step, self.monitors)

    @property
    def windows(self) -> Windows:
        """The windows that the next step draws from."""
        return self.prepared.rotation.at(self.step)

    @property
    def rates(self) -> list[float]:
        """Learning rate of each member at the next step; at the end of a phase that which it had."""
        return self._rates_in(self.phase)

    @property
    def phase(self) -> Phase:
        """The phase of the latest step."""
        return phase_at(self.phases, max(0, self.step - 1))

    def _rates_in(self, phase: Phase) -> list[float]:
        scale = self._lr_scale * phase.rate
        return [rate * scale for rate in rates(self.members, self.monitors, self.step, phase.lr)]

    @property
    def round(self) -> int:
        """The round of the latest step, 1 .. num_rounds."""
        return round_of(self.config, self.step)

    def advance(
        self,
        until: int,
        on_log: OnLog | None = None,
        on_epoch: OnEpoch | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to step `until`, or until every member has stopped, or `interrupted` after a step; call `on_log` every
        log_interval steps, and `on_epoch` when rows of metrics.csv are due.

        Raises `NonFiniteLoss`; the weights are then those before the failed step.
        """
        started, done = time.perf_counter(), self.step
        self._checked, self._good = self.step, torch.zeros_like(self._good)
        while self.step < until and not self.finished and not interrupted():
            if self.before_step is not None:
                self.before_step(self.step, interrupted)
                if interrupted():
                    break
            logs = on_log is not None and ((self.step + 1) % self.config.log_interval == 0 or self.step + 1 == until)
            loss_M, metrics = self._update(logs)
            if self.device.type == "cpu" or logs or self.step == until or self.step % STEPS_PER_BLOCK == 0:
                self._check()
            if self._monitored and self.step % self._monitor_interval() == 0:
                self._check()
                self._monitor()
            if logs and self._validation_is_due(until):
                self.validation_loss = self.validate()
            if logs and on_log is not None:
                now = time.perf_counter()
                values = {name: value_M.tolist() for name, value_M in metrics.items()}
                on_log(Progress(self.step, loss_M.tolist(), values, (self.step - done) / (now - started)))
                started, done = now, self.step
            self._report_epoch(on_epoch)
        self._check()

    def _report_epoch(self, on_epoch: OnEpoch | None) -> None:
        stopped = [m.stopped for m in self.monitors]
        due = self.epochs.due(self.step, self.finished, stopped)
        if due:
            if on_epoch is not None:
                self._check()
                on_epoch(due)
            self.epochs.close(self.step, stopped)

    def _gradient(self, wants_metrics: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the gradients of the next step; returns losses and metrics, each (M,)."""
        config = self.config
        for parameter in self.parameters:
            parameter.grad = None
        drawn = self.ranks.share(self.draws.at(self.step))
        if self._feed is not None:
            drawn = dataclasses.replace(drawn, images=self._feed.at(self.step))
        examples = config.batch_size / self.ranks.world  # per rank; gradients and losses are averaged over ranks
        no_sync = functools.partial(self.ranks.no_sync, self._wrapped)
        loss_M, metrics = backward(
            self._loss_of, self._batch_of, drawn, examples, config.accumulate, no_sync, wants_metrics
        )
        metrics = {name: self.ranks.mean(value_M) for name, value_M in metrics.items()}
        return self.ranks.mean(loss_M), metrics

    def _batch_of(self, drawn: StepDraws) -> Batch:
        """The windows that were drawn, with what augmentation makes of their images."""
        batch = self.windows.gather(drawn.indices_MB, drawn.images)
        return batch if self._augment is None else self._augment(batch, drawn.draws)

    def _update(self, wants_metrics: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        phase = self._enter_phase()
        loss_M, metrics = self._gradient(wants_metrics)
        if not (self._reads_values and self._clip_M is None and are_moderate(loss_M, self.parameters)):
            norm_M = self._clip()
            self._bad = torch.maximum(self._bad, (~torch.isfinite(loss_M + norm_M)).any().float())
        rates = self._rates_in(phase)
        self.optimizer.step(rates, self._bad)
        self._good += 1 - self._bad
        self.step += 1
        self.learner.after_step(self.step)
        if self.ema is not None:
            self.ema.update(self.step, [m.stopped for m in self.monitors])
        if self._monitored:
            self.loss_sum_M += loss_M
        self.epochs.add(loss_M, rates)
        return loss_M, metrics

    def _clip(self) -> Tensor:
        """Clip the gradients of each member, in each group of parameters; returns the largest norm, (M,)."""
        groups = [group for group in self._clipped if any(p.grad is not None for p in group)]
        return torch.stack([clip_by_member(group, self._clip_M) for group in groups]).amax(0)

    def _enter_phase(self) -> Phase:
        """Set the trainable parameters of the current phase, and reset the optimiser if the phase asks for it."""
        phase = phase_at(self.phases, self.step)
        if phase is not self._phase:
            self._phase = phase
            for name, parameter in self.learner.parameters().items():
                parameter.requires_grad_(name in phase.learning)
        if phase.restart and phase.begin == self.step:
            self.optimizer.reset()
            self.monitors = restarted(self.monitors)
            self.loss_sum_M.zero_()
        return phase

    def _loss_function(self) -> LossOf:
        module = self._wrapped = self.learner.module
        self.phases = self.learner.phases(self.config)
        if self.ranks.wraps:
            for name, parameter in self.learner.parameters().items():  # DDP and FSDP average these
                parameter.requires_grad_(name in self.phases[0].learning)
            self._wrapped = self.ranks.wrap(module, self.device)
        return with_arithmetic(self._wrapped, self.config, self.device)

    # --- non-finite losses ------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if bool(self._bad):
            self.step = self._checked + int(self._good)
            loss_M, _ = self._gradient()
            norm_M = self._clip()
            members = torch.nonzero(~torch.isfinite(loss_M + norm_M)).flatten().tolist()
            first_row = self.prepared.rotation.first_row(self.step)
            drawn = self.draws.at(self.step)
            found = non_finite_examples(
                self.learner, self.windows, self._batch_of(drawn), drawn, self.members, members, self.data.store,
                first_row,
            )  # fmt: skip
            raise NonFiniteLoss(f"step {self.step + 1}: {found}; lower lr or set grad_clip", members)

    # --- plateaus and early stopping --------------------------------------------------------------------------------

    def _validation_is_due(self, until: int) -> bool:
        """Whether to measure the held-out loss for the log: once an epoch and at the end, a function of the step."""
        if self.prepared.validation is None or self._monitored:
            return False
        interval = self._monitor_interval()
        return self.step == until or self.step // interval != (self.step - self.config.log_interval) // interval

    def _monitor_interval(self) -> int:
        return self.config.monitor_interval or self.prepared.steps_per_epoch(self.config.batch_size)

    def _monitor(self) -> None:
        if self.prepared.validation is not None:
            losses = self.validation_loss = self.validate()
        else:
            losses = (self.loss_sum_M / self._monitor_interval()).tolist()
            self.loss_sum_M.zero_()
        for monitor, config, loss in zip(self.monitors, self.members, losses, strict=True):
            monitor.update(config, loss)

    def validate(self) -> list[float]:
        """Validation loss of each member, see `validation_loss`."""
        windows = self.prepared.validation
        assert windows is not None
        return validation_loss(self.learner, windows, self.seeds, self.config.batch_size, self.device)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def acting_weights(self) -> dict[str, Tensor]:
        """Name -> weight of the pack of policies that acts: the current ones, or with ema_decay their averages. Must be
        called on all ranks."""
        weights = self.learner.policy_weights()
        if self.ema is not None:
            weights |= dict(zip(self.ema.names, self.ema.values, strict=True))
        return {name: gather_full(value) for name, value in weights.items()}

    def bundle(self, m: int, weights: Mapping[str, Tensor] | None = None) -> PolicyBundle:
        """Member m as it acts. weights: `acting_weights`, where they are known already."""
        from raybc.train.saved import bundle_of

        return bundle_of(self, m, weights or self.acting_weights())

    def state(self, members: slice = slice(None)) -> State:
        """The training state; of some members only, so that they can continue in another pack."""
        from raybc.train.saved import state_of

        return state_of(self, members)

    def save_state(self, path: Path, members: slice = slice(None)) -> None:
        """Write `state` to a safetensors file, atomically."""
        from raybc.train import checkpointing

        checkpointing.save(path, self.state(members))

    def load_state(self, *paths: Path, saved_as: Sequence[Collection[str]] | None = None) -> None:
        """Resume bit for bit from a saved state, or from the states of the parts of this pack in member order.

        saved_as: further run_ids that are accepted for each member. Raises `UserError` for a damaged file, another
        configuration or other data, or states of different steps.
        """
        from raybc.train.saved import restore

        restore(self, paths, saved_as)

    def at_step(self, step: int) -> None:
        """Continue from `step`, after the weights of this step were restored."""
        self.step = step
        self._bad = torch.zeros_like(self._bad)

    def rescale(self, scale_floor: bool) -> None:
        """Normalise the data with or without `Normalizer.with_floor`."""
        if scale_floor != self.scale_floor:
            self.scale_floor = scale_floor
            self.prepared = prepare(self.config, self.data, self.device, scale_floor)
            self._feed = self._feed_of()

    def use_windows(self, rotation: ShardRotation) -> None:
        """Draw from other windows from the next step on."""
        self.prepared = dataclasses.replace(self.prepared, rotation=rotation)
        self.draws = self._draws_of(self._shapes)
        self._feed = self._feed_of()

    def _draws_of(self, shapes: Mapping[str, DrawShape]) -> DrawSource:
        count_at, batch = self.prepared.rotation.count_at, self.config.batch_size
        return DrawSource(shapes, count_at, batch, self.seeds, self.device, self._sampler)

    def _feed_of(self) -> ImageFeed | None:
        config, rotation = self.config, self.prepared.rotation
        ahead = self._draws_of({})
        return feed_of(
            lambda step: self.ranks.share(ahead.at(step)), rotation, config.total_steps, self.device,
            config.memory_bytes, config.dataloader_num_workers,
        )  # fmt: skip
