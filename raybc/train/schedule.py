"""Learning rates, and when a member has learned enough. Letters: M members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raybc.config import RunConfig

#: ReduceLROnPlateau: smaller relative improvements do not count (PyTorch's default).
THRESHOLD = 1e-4


def warmup_steps(config: RunConfig) -> int:
    """W: `warmup_steps`, or with cosine a share of the budget N: clamp(max(least, round(ratio N)), 1, N / 2), where
    ratio is `budget_warmup_ratio` and least `budget_min_warmup_steps`."""
    if config.warmup_steps >= 0:
        return config.warmup_steps
    if config.lr_schedule != "cosine":
        return 0
    total = config.training_steps
    wanted = max(config.budget_min_warmup_steps, round(config.budget_warmup_ratio * total))
    return max(1, min(wanted, total // 2))


def learning_rate(config: RunConfig, step: int) -> float:
    """Learning rate of gradient step `step` (from 0) of N = training_steps; a function of the step alone, so that
    training goes on exactly.

    In the first W steps lr (step + 1) / W. Then lr, or with cosine
    min_lr + (lr - min_lr) (1 + cos(pi (step - W) / (N - W))) / 2  (Loshchilov and Hutter 2017, SGDR, without restarts).
    """
    warmup = warmup_steps(config)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.lr_schedule != "cosine":
        return config.lr
    share = (step - warmup) / max(1, config.training_steps - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * share)) / 2


@dataclass
class Watch:
    """What one member's monitored loss has done so far. lr_best, stop_best: the lowest that counted; lr_bad, stop_bad:
    looks since then; scale: what plateaus have made of the learning rate; stopped: it learns no more."""

    lr_best: float = math.inf
    lr_bad: int = 0
    scale: float = 1.0
    stop_best: float = math.inf
    stop_bad: int = 0
    stopped: bool = False

    def look(self, config: RunConfig, loss: float) -> None:
        """ReduceLROnPlateau (relative threshold), and early stopping as Keras has it (`min_delta` absolute)."""
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


def rates(members: Sequence[RunConfig], watches: Sequence[Watch], step: int) -> list[float]:
    """The learning rate of each member at step `step`: 0 for one that has stopped, never below min_lr by plateaus."""
    found = []
    for config, watch in zip(members, watches, strict=True):
        rate = learning_rate(config, step)
        if watch.scale < 1:
            rate = max(rate * watch.scale, min(rate, config.min_lr))
        found.append(0.0 if watch.stopped else rate)
    return found
