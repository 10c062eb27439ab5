"""Phases of training: who learns, and at which rate, as a function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raybc.config import RunConfig
from raybc.types import UserError

#: Beginnings of parameter names in release 0.1.0, which `freeze` still knows.
_RENAMED = {"field": "velocity_field"}


@dataclass(frozen=True)
class Phase:
    """From step `begin` on."""

    begin: int
    """First gradient step of the phase, from 0."""
    learning: frozenset[str]
    """Names of the parameters that learn."""
    rate: float = 1.0
    """Factor on the learning rate."""
    restart: bool = False
    """Begin with a new optimiser and new monitors (plateaus, early stopping)."""


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of gradient step `step`. phases: in the order of their first steps, the first at 0."""
    return next(phase for phase in reversed(phases) if phase.begin <= step)


def phases_of(run: RunConfig, names: Sequence[str]) -> list[Phase]:
    """What `freeze` and `freeze_steps` say of the parameters `names`."""
    frozen = frozen_names(run, names)
    everything = frozenset(names)
    if not frozen or run.freeze_steps == 0:
        return [Phase(0, everything)]
    first = Phase(0, everything - frozen)
    return [first] if run.freeze_steps < 0 else [first, Phase(run.freeze_steps, everything)]


def frozen_names(run: RunConfig, names: Sequence[str]) -> frozenset[str]:
    """Parameters whose names begin with one of `freeze`, those that learn later or never."""
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
