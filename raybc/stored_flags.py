"""Flags of a command that its folder keeps, so that a resume needs to name only what changes."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

Args = TypeVar("Args")
#: Flags that say how a command runs now; they are not kept.
NOW = ("out", "resume", "overwrite", "address", "ray_dashboard", "workers", "slots", "inference", "recycle", "deadline")


def changed_flags(args: Any, leave_out: Collection[str] = NOW) -> dict[str, Any]:
    """The flags that are not the default, as JSON values."""
    values = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.name not in leave_out and getattr(args, field.name) != field.default
    }
    return {
        name: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for name, v in values.items()
    }


def with_stored(args: Args, stored: Mapping[str, Any]) -> Args:
    """`args` with the flags of `changed_flags` where they have their defaults; names that are unknown now are left
    out."""
    hints = typing.get_type_hints(type(args))
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, args)):
        if field.name not in stored or getattr(args, field.name) != field.default:
            continue
        value = stored[field.name]
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and Path in (hints[field.name], *typing.get_args(hints[field.name])):
            value = Path(value)
        found[field.name] = value
    return dataclasses.replace(cast(Any, args), **found)
