"""Reading YAML: safe, strict and bounded. Only files need PyYAML; `raybc.strict` checks values without it."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from raybc.files import read_text
from raybc.types import UserError

#: Bounds on what is read from YAML, far above any sweep and cluster.
MAX_VALUES, MAX_DEPTH = 100_000, 50


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys and reads 1e-4 as a number, as in YAML 1.2; PyYAML reads a string."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for each, _ in node.value:
            key = self.construct_object(each, deep=True)
            if isinstance(key, Hashable):  # others are refused below
                if key in seen:
                    raise UserError(f"line {node.start_mark.line + 1}: the key {key!r} stands twice")
                seen.add(key)
        return super().construct_mapping(node, deep)


_EXPONENT = r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_EXPONENT), list("-+0123456789"))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises `UserError`; where: the name of the file."""
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: not readable as YAML: nested too deeply") from None
    # Values that look like another type and are none: an impossible date, a number without digits.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        said = " ".join(str(error).split()) if isinstance(error, yaml.YAMLError | ValueError) else "a value is damaged"
        raise UserError(f"{where}: not readable as YAML: {said}") from None
    _check_size(value, where)
    return value


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file. Raises `UserError`; what: the kind of file, with its article."""
    return parse_yaml(read_text(path, what, "YAML"), str(path))


def _check_size(value: Any, where: str) -> None:
    """Raise `UserError` for values that aliases (`*name`) make huge or endless."""
    left, rest = MAX_VALUES, [(value, 0)]
    while rest:
        item, depth = rest.pop()
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise UserError(
                f"{where}: expected at most {MAX_VALUES} values, nested at most {MAX_DEPTH} times, got more"
            )
        if isinstance(item, dict):
            rest += ((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list | tuple | set):
            rest += ((inner, depth + 1) for inner in item)
