"""Declarations of options: default, bounds, role, and whether a sweep may search the option.

    lr: float = option(3e-4, role=Role.MEMBER, above=0)
    "Learning rate."

All tables are computed from these declarations: bounds, sample axes, options in which members of a pack may differ,
options of a sampling plan, and options that a sweep may not search.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from raybc.docs_of import field_docs
from raybc.strict import type_hints
from raybc.types import UserError

_KEY = "raybc_option"
#: In `Option.only_with`: any value other than the default.
CHANGED = "(not the default)"


class Role(Enum):
    """What a change of an option affects."""

    MODEL = "model"
    """Changes the model."""
    MEMBER = "member"
    """Changes the model, but not the shape of the network or the batch, so members of a pack may differ in it."""
    SAMPLE = "sample"
    """Changes how a checkpoint is used: a sweep evaluates all values without new training."""
    OUTPUT = "output"
    """Does not change the model: output, logging, speed. Not part of the identity of a run."""


@dataclass(frozen=True)
class Option:
    """The declaration of an option."""

    role: Role = Role.MODEL
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None
    also: tuple[Any, ...] = ()
    """Allowed values outside the bounds, e.g. -1 for "off"."""
    off: str = ""
    """Meaning of the values in `also`, for messages."""
    axis: bool | str = True
    """Whether a sweep may search the option; a text is the reason why not."""
    needs: tuple[str, str] = ("", "")
    """(other option, advice): this option has no effect without the other one."""
    excluded_by: tuple[str, str] = ("", "")
    """(other option, reason): this option must keep its default if the other one is set."""
    only_with: tuple[Mapping[str, Any], ...] = ()
    """Conditions, one of which must hold for this option to have an effect (empty: it always has). A condition maps
    other options to a value, a tuple of values, or `CHANGED`. Without an effect the option does not distinguish recipes
    of a sweep, and as an axis it is refused where no corner has one. A run accepts it all the same."""
    models_with: str = ""
    """For an OUTPUT option: the component (`critic`) with which it changes the model. It is then part of the identity,
    unless that component is `none`."""
    identified_by: str = ""
    """For an OUTPUT option that names something that changes the model: the option that identifies it."""
    aliases: tuple[str, ...] = ()
    """Names in earlier releases, and those of other trainers, which work as well."""


@dataclass(frozen=True)
class OptionInfo:
    """One option, for commands, sweeps and documentation."""

    name: str
    hint: Any
    """Resolved type."""
    default: Any
    option: Option
    doc: str
    group: str
    """Name of the class that declares it."""

    @property
    def plain_type(self) -> type:
        """int, float, bool or str; for a Literal the type of its values."""
        return self.hint if isinstance(self.hint, type) else type(typing.get_args(self.hint)[0])


def option(default: Any, **declaration: Any) -> Any:
    """A dataclass field with its `Option`; the keyword arguments are those of `Option`."""
    return dataclasses.field(default=default, metadata={_KEY: Option(**declaration)})


_OPTIONS: dict[type, Mapping[str, OptionInfo]] = {}


def options_in(cls: type) -> Mapping[str, OptionInfo]:
    """Name -> option of a dataclass of options, in the order of declaration. A plain field is a MODEL option."""
    if cls not in _OPTIONS:
        _OPTIONS[cls] = _read_options(cls)
    return _OPTIONS[cls]


def _read_options(cls: type) -> dict[str, OptionInfo]:
    hints = type_hints(cls)
    docs: dict[str, str] = {}
    owners: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            own = field_docs(base)
            docs |= own
            owners |= dict.fromkeys(inspect.get_annotations(base), base.__name__)
    return {
        f.name: OptionInfo(
            f.name, hints[f.name], f.default, f.metadata.get(_KEY, Option()), docs.get(f.name, ""), owners[f.name]
        )
        for f in dataclasses.fields(cls)
        if f.metadata.get(_KEY) is not None or f.default is not dataclasses.MISSING
    }


def flag_path(where: str) -> str:
    """Prefix for the name of an option in messages: `--` for flags of a command, otherwise e.g. `space.`."""
    return where if where == "--" else f"{where}."


def check_bounds(values: Any, where: str) -> None:
    """Raise `UserError` for the first option of `values` (a dataclass of options) that is out of bounds."""
    for name, info in options_in(type(values)).items():
        value = getattr(values, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value in info.option.also:
            continue
        expected = _violated(info.option, value)
        if expected:
            allowed = " or ".join(f"{v:g}" for v in info.option.also)
            special = f"{allowed} ({info.option.off}) or " if info.option.off else ""
            raise UserError(f"{flag_path(where)}{name}: expected {special}{expected}, got {value}")


def _violated(option: Option, value: float) -> str:
    """What was expected if `value` is out of bounds, else ""."""
    low, above, below, high = option.at_least, option.above, option.below, option.at_most
    number = "a finite number " if isinstance(value, float) else ""
    broken = (
        not math.isfinite(value)
        or (low is not None and value < low)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
        or (high is not None and value > high)
    )
    if not broken:
        return ""
    if above is not None and high is not None:
        return f"more than {above:g} and at most {high:g}"
    if low is not None and below is not None:
        if isinstance(value, int):
            return f"less than {below:.0f}" if value >= below else f"at least {low:g}"
        return f"at least {low:g} and below {below:g}"
    if above is not None:
        return f"{number}above {above:g}"
    if low is not None:
        return f"{number and number + 'of '}at least {low:g}"
    return "a finite number"


def check_relations(values: Any, flat: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` for the first option that violates `Option.needs` or `Option.excluded_by`.

    flat: name -> value of all options of the run.
    """
    for name, info in options_in(type(values)).items():
        if getattr(values, name) == info.default:
            continue
        other, what = info.option.needs
        if other and not flat[other]:
            raise UserError(f"{flag_path(where)}{name}: has no effect without {other}; {what}")
        other, why = info.option.excluded_by
        if other and flat[other]:
            raise UserError(
                f"{flag_path(where)}{name}: expected {info.default} with {other} ({why}), got {getattr(values, name)}"
            )
