"""Strict conversion of plain values (YAML, JSON) to dataclasses. Unknown keys and wrong types raise `UserError`."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from typing import Any, Literal, TypeVar

from raybc.types import UserError


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


T = TypeVar("T")


#: Whole numbers in configurations are below, as in numpy and in the pages.
MAX_NUMBER = 2**63
#: The most names that a message lists.
LISTED = 10


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """The text "did you mean ...?"; if no known word is similar, a list of them, or of the ten nearest of many."""
    known = list(dict.fromkeys(known))
    matches = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if matches:
        return "did you mean " + " or ".join(repr(m) for m in matches) + "?"
    if len(known) <= LISTED:
        return "known: " + ", ".join(sorted(known))
    return f"the nearest of {len(known)} known names: {', '.join(_nearest(word, known))}"


def listed(word: str, known: typing.Iterable[str]) -> str:
    """The known names in place of which `word` was written; of many the ten nearest, and how many there are."""
    known = list(dict.fromkeys(known))
    if len(known) <= LISTED:
        return ", ".join(known)
    return f"{', '.join(_nearest(word, known))} (the nearest of {len(known)})"


def _nearest(word: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(word, known, n=LISTED, cutoff=0.0)


def type_hints(cls: type) -> dict[str, Any]:
    """Field -> resolved type."""
    return typing.get_type_hints(cls)


def field_type(cls: type, name: str, where: str) -> type:
    """The plain type of a field. Raises `UserError` with similar names for an unknown field."""
    hints = type_hints(cls)
    if name not in hints:
        raise UserError(f"{where}: unknown key {name!r}: {did_you_mean(name, hints)}")
    hint = hints[name]
    return hint if isinstance(hint, type) else type(typing.get_args(hint)[0])


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Build dataclass `cls` from a mapping. Raises `UserError` for unknown or missing keys and wrong types.

    where: the place of the mapping in its file, for messages, e.g. `train.policy`.
    """
    reader = getattr(cls, "from_plain", None)
    if reader is not None:
        return typing.cast(T, reader(mapping, where))
    if not isinstance(mapping, dict):
        raise UserError(f"{where or 'file'}: expected a mapping of keys, got {type(mapping).__name__}")
    hints = type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise UserError(f"{place}: unknown key {key!r}: {did_you_mean(str(key), hints)}")
        values[key] = _convert(value, hints[key], place)
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"{where or 'file'}: expected the key {f.name!r}, which is missing")
    return cls(**values)


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, got {value!r}")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(v, inner, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping, got {value!r}")
        inner = typing.get_args(hint)[1]
        return {str(k): _convert(v, inner, f"{where}.{k}") for k, v in value.items()}
    return check_type(value, hint, where)


def check_type(value: Any, hint: Any, where: str) -> Any:
    """`value` converted to the type `hint`. Whole floats become int, and int becomes float.

    Raises `UserError` for any other type. where: the place of the value, for the message.
    """
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is Literal:
        options = typing.get_args(hint)
        if value not in options:
            text = did_you_mean(str(value), [str(o) for o in options])
            raise UserError(f"{where}: expected one of {', '.join(map(str, options))}, got {value!r}; {text}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return check_type(value, typing.get_args(hint)[0], where)
    if isinstance(value, int) and abs(value) >= MAX_NUMBER:
        raise UserError(f"{where}: expected {getattr(hint, '__name__', 'a number')} below 2**63, got {value!s:.40}")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value
