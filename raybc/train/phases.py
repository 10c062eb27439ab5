"""Phases of training: the trainable parameters and the learning rate as a function of the step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raybc.config import RunConfig
from raybc.policies.base import LANGUAGE
from raybc.strict import listed
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
    """Reset the optimiser, plateau detection and early stopping at the start of the phase. Members that have stopped
    stay so."""
    name: str = "train"
    """What the phase is called in tables and by the progress bar."""
    lr: str = "lr"
    """The option that is the learning rate; 0 there stands for `lr`."""


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of gradient step `step` (from 0). phases: sorted by `begin`; the first begins at 0."""
    return next(phase for phase in reversed(phases) if phase.begin <= step)


def phases_of(run: RunConfig, names: Sequence[str]) -> list[Phase]:
    """The phases that the options define. names: of all parameters.

    With `freeze_epochs` (and `freeze_steps`, which `raybc.train.data.resolved` computes from it) the phases are
    head_only and finetune; with `freeze` alone they are frozen and train. Raises `UserError` as `frozen_names` does.
    """
    frozen = frozen_names(run, names)
    if run.freeze_epochs and not run.freeze:
        frozen = encoder_names(names)
        if not frozen:
            raise UserError("freeze_epochs: found no parameters `encoders...` to freeze; name others with freeze")
    kept = encoder_names(names) if getattr(run.encoder, "vit_frozen", False) else frozenset[str]()
    if run.unfreeze_layer4:
        kept = frozenset(name for name in encoder_names(names) if "backbone__layer4__" not in name)
    learning = frozenset(names) - kept
    first_name, last_name = ("head_only", "finetune") if run.freeze_epochs else ("frozen", "train")
    if not frozen or run.freeze_steps == 0:
        return [Phase(0, learning, name=last_name, lr="lr_finetune")]
    first = Phase(0, learning - frozen, name=first_name, lr="lr_head")
    if run.freeze_steps < 0 or run.freeze_steps >= run.training_steps:
        return [first]
    restart = run.freeze_epochs > 0
    return [first, Phase(run.freeze_steps, learning, restart=restart, name=last_name, lr="lr_finetune")]


def encoder_names(names: Sequence[str]) -> frozenset[str]:
    """The parameters of image encoders; of those that start from weights the backbones alone, since what follows
    belongs to a new policy."""
    found = frozenset(name for name in names if name.startswith("encoders.") or ".encoders." in name)
    found = frozenset(name for name in found if f".{LANGUAGE}." not in name)
    return frozenset(name for name in found if ".backbone__" in name) or found


def described(run: RunConfig, phases: Sequence[Phase], sizes: Mapping[str, int]) -> str:
    """A line that says what learns when, and how fast; empty for a single phase in which all parameters learn.

    sizes: name of a parameter -> its number of entries.
    """
    if len(phases) == 1 and len(phases[0].learning) == len(sizes):
        return ""
    total = sum(sizes.values())
    parts = []
    for phase, following in itertools.zip_longest(phases, phases[1:]):
        end = following.begin if following else run.training_steps
        count = sum(sizes[name] for name in phase.learning)
        rate = getattr(run, phase.lr) or run.lr
        parts.append(
            f"{phase.name}, steps {phase.begin + 1} to {end}: {count:,} of {total:,} parameters learn, lr {rate:g}"
        )
    return "phases: " + "; ".join(parts)


def notes(run: RunConfig) -> tuple[str, ...]:
    """What to know about the phases of a new run."""
    if not run.freeze_epochs or run.freeze or run.init_from or getattr(run.encoder, "is_pretrained", False):
        return ()
    return (
        "the encoders that are frozen at first have random weights; --pretrained=FILE starts a ResNet or a ViT from "
        "others, and "
        "--freeze_epochs=0 freezes nothing",
    )


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
            raise UserError(f"freeze: expected the beginning of one of {listed(prefix, sorted(names))}, got {prefix!r}")
        found |= matching
    if found and len(found) == len(names):
        raise UserError(f"freeze: expected something to be left to learn, got all of it: {run.freeze!r}")
    return frozenset(found)
