"""Checking values of JSON against `TypedDict`s, the types of rows on disk (`raybc.rows`)."""

from __future__ import annotations

import functools
import math
import types
import typing
from typing import Any, NotRequired

from raybc.types import UserError


def check_typed(value: Any, hint: Any, where: str, partial: tuple[type, ...] = ()) -> None:
    """Raise `UserError`, beginning with `where`, unless a JSON value has the type `hint`.

    hint: a `TypedDict`, whose keys must be there unless they are `NotRequired` (others may be there, too), or a type of
    its values. partial: `TypedDict`s of which any key may be missing. Whole numbers are floats, truth values are no
    numbers, and numbers are finite.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return
    if typing.is_typeddict(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping, got {_short(value)}")
        for name, (field, required) in _fields(hint).items():
            if name in value:
                check_typed(value[name], field, f"{where}: {name}", partial)
            elif required and hint not in partial:
                raise UserError(f"{where}: expected the key {name!r}, got {', '.join(map(str, value)) or 'none'}")
    elif origin is typing.Literal:
        if value not in inner:
            raise UserError(f"{where}: expected one of {', '.join(map(str, inner))}, got {_short(value)}")
    elif origin in (typing.Union, types.UnionType):
        if not any(_fits(value, each) for each in inner):
            check_typed(value, inner[0], where, partial)
    elif origin is list:
        _check_plain(value, list, where)
        for i, each in enumerate(value):
            check_typed(each, inner[0], f"{where}[{i}]", partial)
    elif origin is dict:
        _check_plain(value, dict, where)
        for key, each in value.items():
            check_typed(each, inner[1], f"{where}: {key}", partial)
    else:
        _check_plain(value, hint, where)


@functools.cache
def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    """Key -> (type, whether it must be there)."""
    hints = typing.get_type_hints(cls, include_extras=True)  # `__required_keys__` is wrong for annotations in strings
    return {
        name: (typing.get_args(hint)[0], False) if typing.get_origin(hint) is NotRequired else (hint, True)
        for name, hint in hints.items()
    }


def _fits(value: Any, hint: Any) -> bool:
    try:
        check_typed(value, type(None) if hint is None else hint, "")
    except UserError:
        return False
    return True


def _check_plain(value: Any, kind: type, where: str) -> None:
    good = isinstance(value, int | float if kind is float else kind)
    if isinstance(value, bool) and kind is not bool:
        good = False
    if isinstance(value, float) and not math.isfinite(value):
        good = False
    if not good:
        raise UserError(f"{where}: expected {_NAMES.get(kind, kind.__name__)}, got {_short(value)}")


_NAMES = {int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "a mapping"}


def _short(value: Any) -> str:
    return f"{value!r:.60}" if isinstance(value, str | int | float | None) else type(value).__name__
