"""What the functions have in common: keywords in place of flags, and errors in words of Python."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from raybc import cli
from raybc.files import expanded
from raybc.strict import check_type, did_you_mean
from raybc.types import UserError

#: Ray, when it is imported in a notebook, asks for ipywidgets, which nothing here needs.
logging.getLogger("ray.widgets.util").setLevel(logging.ERROR)

A = TypeVar("A")
#: What becomes of a run that is there: True continues it, False refuses it, "auto" continues it and begins otherwise.
Resume = bool | Literal["auto"]
#: What an interruption ends with.
AGAIN = "what was saved is kept; run the same again to continue"
#: Phrases about flags -> the same about keywords.
_PHRASES = (
    (r"continue with --resume(?: --out \S+| \(\S+\))?", "run the same again to continue"),
    (r"--resume continues the same \w+, but (?:the configuration differs: )?", "it was made with other arguments: "),
    (r"(the same command|it) with --resume", "the same call"),
    (r"--out\b(?![= ]\S*\w*/)", "out=..."),
    (r"--overwrite\b(?!:)", "overwrite=True"),
    (r"--resume\b(?![:=])", "resume=True"),
    (r"--no-(\w+)", r"\1=False"),
    (r"--(?=\w)", ""),
)
#: A command to type in a shell, up to the end of its clause; its flags stay flags.
_COMMAND = re.compile(r"((?:`[^`]*`)|(?:(?:python -m )?raybc[ .][\w. ]*[^;,()\n]*))")


@runtime_checkable
class HasPath(Protocol):
    """Whatever is saved somewhere: a `raybc.Dataset`, an object of one's own."""

    @property
    def path(self) -> Path: ...


#: What names data.
Data = str | PathLike[str] | HasPath


def in_python(text: str) -> str:
    """An error of a command as the caller of a function reads it: keywords in place of flags."""
    parts = _COMMAND.split(text)
    for place in range(0, len(parts), 2):
        for pattern, words in _PHRASES:
            parts[place] = re.sub(pattern, words, parts[place])
    return "".join(parts)


@contextlib.contextmanager
def called(quiet: bool = False) -> Iterator[None]:
    """Errors of the block as the caller of a function reads them; an interruption is one line. quiet: print nothing."""
    before = cli.console.quiet
    cli.console.quiet = before or quiet
    try:
        with warnings.catch_warnings():
            # tqdm, which Ray and others import, wants ipywidgets in a notebook; nothing here shows its bars
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield
    except UserError as error:
        raise UserError(in_python(str(error))) from None
    except cli.Failed as error:
        raise cli.Failed(in_python(str(error))) from None
    except cli.Interrupted as error:
        raise cli.Interrupted(in_python(str(error))) from None
    except KeyboardInterrupt:
        raise cli.Interrupted(AGAIN) from None
    finally:
        cli.console.quiet = before


def path_of(value: Data, name: str) -> str:
    """The path or published name that `value` is, as the keyword `name`. Raises `UserError` for anything else."""
    if isinstance(value, str | PathLike):
        return os.fspath(value)
    if isinstance(value, HasPath):
        return os.fspath(value.path)
    raise UserError(
        f"{name}: expected a path, a published name or an object with a path, got {type(value).__name__}; "
        "raybc.from_arrays saves arrays as data"
    )


def folder_of(value: str | PathLike[str] | None, name: str = "out") -> Path | None:
    """The folder that a keyword names; None for none."""
    return None if value is None else expanded(os.fspath(value), name)


def arguments(cls: type[A], given: Mapping[str, Any]) -> A:
    """The dataclass of a command's flags, from keywords.

    Paths may be text, lists are tuples, and where a flag is text with several values, as in flow_steps="1,5", a number
    or a list will do. Raises `UserError` for unknown keywords and wrong types.
    """
    hints = typing.get_type_hints(cls)
    unknown = [name for name in given if name not in hints]
    if unknown:
        raise UserError(f"{unknown[0]}: unknown keyword: {did_you_mean(unknown[0], hints)}")
    return cls(**{name: _converted(value, hints[name], name) for name, value in given.items()})


def _converted(value: Any, hint: Any, name: str) -> Any:
    value = plain(value)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        return None if value is None else _converted(value, inner[0], name)
    if hint is Path:
        return expanded(check_type(value, str, name), name)
    if origin is tuple:
        values = value if isinstance(value, list) else [value]
        return tuple(_converted(one, inner[0], name) for one in values)
    if origin is Literal and isinstance(value, bool) and str(value) in inner:
        return str(value)
    if hint is str and not isinstance(value, str | bool) and value is not None:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return check_type(value, hint, name)


def plain(value: Any) -> Any:
    """A keyword's value as YAML would give it: text of paths, lists of sequences, Python's numbers of numpy's."""
    if isinstance(value, PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):  # of numpy and torch
        return value.tolist()
    return value


def flags(given: Mapping[str, Any]) -> list[str]:
    """Keywords as a command line, for what a run folder keeps about how it was made."""
    words: list[str] = []
    for name, value in given.items():
        value = plain(value)
        if value is None or value == []:
            continue
        words += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return words


def one_of(name: str, value: Any, other: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """{other: value} where the keyword `name`, a short name of `other`, has a value. Raises `UserError` if both do."""
    if value in (None, ""):
        return {}
    if given.get(other):
        raise UserError(f"{name}: expected either this or {other}, got both")
    return {other: value}
