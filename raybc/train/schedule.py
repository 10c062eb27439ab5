"""Learning-rate schedules and early stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raybc.config import RunConfig

#: ReduceLROnPlateau: smaller relative improvements do not count (PyTorch's default).
THRESHOLD = 1e-4


def learning_rate(config: RunConfig, step: int, option: str = "lr") -> float:
    """Learning rate of gradient step `step` (from 0). It depends on the step alone, so a resume is exact.

    The first W steps have lr (step + 1) / W. Later steps have lr, or with cosine
    min_lr + (lr - min_lr) (1 + cos(pi (step - W) / (N - W))) / 2  (Loshchilov and Hutter 2017, SGDR),
    where N is schedule_steps if set, else training_steps. After step N the rate is min_lr, or, if `schedule_after` is
    restart, it follows another cosine until training ends. With rsqrt, the rate is lr / sqrt(1 + (step - W) / N), as
    in Zhai et al. 2022, Scaling Vision Transformers, with the number of steps as time scale.

    option: which option is lr; 0 there stands for `lr`.
    """
    warmup = config.warm_up
    lr: float = getattr(config, option) or config.lr
    if step < warmup:
        return lr * (step + 1) / warmup
    if config.lr_schedule == "rsqrt":
        return lr / math.sqrt(1 + (step - warmup) / (config.schedule_steps or config.training_steps))
    if config.lr_schedule != "cosine":
        return lr
    end = config.schedule_steps or config.training_steps
    if step < end:
        share = (step - warmup) / max(1, end - warmup)
    elif config.schedule_after == "hold":
        share = 1.0
    else:
        share = (step - end) / max(1, config.training_steps - end)
    return config.min_lr + (lr - config.min_lr) * (1 + math.cos(math.pi * share)) / 2


@dataclass
class LossMonitor:
    """State of plateau detection and early stopping for one member."""

    lr_best: float = math.inf
    """Best loss for plateau detection."""
    lr_bad: int = 0
    """Checks since `lr_best` or the latest reduction."""
    scale: float = 1.0
    """Product of all plateau factors so far."""
    stop_best: float = math.inf
    """Best loss for early stopping."""
    stop_bad: int = 0
    """Checks since `stop_best`."""
    stopped: bool = False
    """Whether the member has stopped early."""

    def update(self, config: RunConfig, loss: float) -> None:
        """Process one check: ReduceLROnPlateau (relative threshold) and early stopping as in Keras (absolute delta)."""
        if self.stopped:
            return
        if config.lr_schedule == "plateau":
            if loss < self.lr_best * (1 - THRESHOLD):
                self.lr_best, self.lr_bad = loss, 0
            else:
                self.lr_bad += 1
            if self.lr_bad > config.plateau_patience:
                self.scale, self.lr_bad = self.scale * config.plateau_factor, 0
        if config.stop_patience > 0:
            if loss < self.stop_best - config.stop_min_delta:
                self.stop_best, self.stop_bad = loss, 0
            else:
                self.stop_bad += 1
            self.stopped = self.stop_bad >= config.stop_patience


def is_monitored(config: RunConfig) -> bool:
    return config.lr_schedule == "plateau" or config.stop_patience > 0


def rates(members: Sequence[RunConfig], monitors: Sequence[LossMonitor], step: int, option: str = "lr") -> list[float]:
    """The learning rate of each member at step `step`: 0 for one that has stopped, never below min_lr by plateaus.

    option: see `learning_rate`.
    """
    found = []
    for config, monitor in zip(members, monitors, strict=True):
        rate = learning_rate(config, step, option)
        if monitor.scale < 1:
            rate = max(rate * monitor.scale, min(rate, config.min_lr))
        found.append(0.0 if monitor.stopped else rate)
    return found


def round_of(config: RunConfig, step: int) -> int:
    """The round of the latest step, 1 .. num_rounds; `step` steps are done."""
    return min(config.num_rounds, 1 + max(0, step - 1) * config.num_rounds // config.training_steps)


def is_finished(config: RunConfig, step: int, monitors: Sequence[LossMonitor]) -> bool:
    """Whether the budget is used up, or every member has stopped early."""
    return step >= config.total_steps or all(m.stopped for m in monitors)


def restarted(monitors: Sequence[LossMonitor]) -> list[LossMonitor]:
    """Monitors at the start of a phase. A member that has stopped stays so, as it would alone."""
    return [monitor if monitor.stopped else LossMonitor() for monitor in monitors]
