"""Phases of training: the trainable parameters and the learning rate as a function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raybc.config import RunConfig
from raybc.types import UserError

#: Prefixes of parameter names in release 0.1.0 -> current prefixes; `freeze` accepts both.
_RENAMED = {"field": "velocity_field"}


@dataclass(frozen=True)
class Phase:
    """A phase lasts until the next one begins."""

    begin: int
    """First gradient step of the phase, from 0."""
    learning: frozenset[str]
    """Names of the trainable parameters."""
    rate: float = 1.0
    """Factor on the learning rate."""
    restart: bool = False
    """Reset the optimiser, plateau detection and early stopping at the start of the phase."""
    name: str = "train"
    """What the phase is called in metrics.csv and by the progress bar."""


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of gradient step `step` (from 0). phases: sorted by `begin`; the first begins at 0."""
    return next(phase for phase in reversed(phases) if phase.begin <= step)


def phases_of(run: RunConfig, names: Sequence[str]) -> list[Phase]:
    """The phases that `freeze` and `freeze_steps` define. names: of all parameters.

    Raises `UserError` as `frozen_names` does.
    """
    frozen = frozen_names(run, names)
    everything = frozenset(names)
    if not frozen or run.freeze_steps == 0:
        return [Phase(0, everything)]
    if run.freeze_steps < 0:
        return [Phase(0, everything - frozen)]
    return [Phase(0, everything - frozen, name="frozen"), Phase(run.freeze_steps, everything)]


def frozen_names(run: RunConfig, names: Sequence[str]) -> frozenset[str]:
    """The parameters whose names begin with one of the prefixes in `freeze`.

    Raises `UserError` if a prefix matches nothing, or if all parameters match.
    """
    found: set[str] = set()
    for prefix in (p.strip() for p in run.freeze.split(",") if p.strip()):
        first, dot, rest = prefix.partition(".")
        renamed = f"{_RENAMED.get(first, first)}{dot}{rest}"
        matching = {name for name in names if name.startswith(renamed)}
        if not matching:
            raise UserError(f"freeze: expected the beginning of one of {sorted(names)}, got {prefix!r}")
        found |= matching
    if found and len(found) == len(names):
        raise UserError(f"freeze: expected something to be left to learn, got all of it: {run.freeze!r}")
    return frozenset(found)
