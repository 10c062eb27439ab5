"""What a trainer reports while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A report, every log_interval steps."""

    step: int
    """Gradient steps so far."""
    losses: list[float]
    """Loss of each member at this step."""
    metrics: dict[str, list[float]]
    """Name -> value of each member, see `Loss.metrics`."""
    steps_per_sec: float
    """Since the previous report."""


#: Called every log_interval steps.
OnLog = Callable[[Progress], None]
#: Gets the gradient steps so far, and a function that says whether to return early.
BeforeStep = Callable[[int, Callable[[], bool]], None]
#: Called with the members (indices) that get a row.
OnEpoch = Callable[[Sequence[int]], None]
