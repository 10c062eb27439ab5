"""Command-line flags as tyro reads and shows them: switches without a value, groups, examples, no default twice.

A dataclass of flags may have these class variables:

    GROUPS      title -> names of the flags in a box of their own in --help; the others are in the box `options`
    EXAMPLES    (what it does, arguments) of command lines that --help shows
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import tyro

from raybc.docs_of import all_field_docs
from raybc.types import UserError

Args = TypeVar("Args")
#: Values of a switch that can also be left to the command.
_AUTO = ("False", "True", "auto")
#: Words for types in --help.
_WORDS = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}


def read(cls: type[Args], argv: Sequence[str], prog: str, description: str) -> Args:
    """Parse `argv` into `cls`; see `raybc.cli.parse`."""
    parsed: Any = tyro.cli(
        shown(cls),
        args=_plain_switches(_switches(cls), argv),
        prog=prog,
        description=_described(cls, prog, description),
        # Every flag has its help (`_flag`): tyro need not look for comments in the source.
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
    )
    return _back(cls, parsed)


def grouped(cls: type, title: str = "") -> Any:
    """A dataclass as a group of flags: a box of its own in --help, and flags without a prefix. title: that of the box
    (default: the name of the field)."""
    return Annotated[cls, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name=title or None)]


# --- what --help shows ------------------------------------------------------------------------------------------------


def shown(cls: type) -> type:
    """A dataclass with the flags of `cls` as tyro shows them and completes them."""
    hints = typing.get_type_hints(cls, include_extras=True)
    docs = all_field_docs(cls)
    titles = {name: title for title, names in getattr(cls, "GROUPS", {}).items() for name in names}
    boxes: dict[str, list[tuple[str, Any, Any]]] = {"": []}
    for field in dataclasses.fields(cast(Any, cls)):
        hint, default = hints[field.name], field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(inner):
            group = shown(cast(type, inner))
            extras = typing.get_args(hint)[1:]
            value = _as(group, default)
            boxes[""].append((field.name, Annotated[(group, *extras)], value))
        else:
            flag = (field.name, _flag(field.name, hint, default, docs.get(field.name, "")), default)
            boxes.setdefault(titles.get(field.name, ""), []).append(flag)
    fields = boxes.pop("")
    for number, title in enumerate(getattr(cls, "GROUPS", {})):
        group = _made(f"{cls.__name__}_{number}", boxes.get(title, []), "")
        fields.append((f"group_{number}", grouped(group, title), group()))
    return _made(cls.__name__, fields, cls.__doc__ or "")


def _made(name: str, fields: Sequence[tuple[str, Any, Any]], doc: str) -> type:
    required = [(n, h) for n, h, default in fields if default is dataclasses.MISSING]
    others = [(n, h, dataclasses.field(default=d)) for n, h, d in fields if d is not dataclasses.MISSING]
    made = dataclasses.make_dataclass(name, [*required, *others], frozen=True)
    made.__doc__ = " ".join(doc.split())
    return made


def _flag(name: str, hint: Any, default: Any, doc: str) -> Any:
    """The type of a flag with its help."""
    inner, *extras = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    given = next((extra for extra in extras if hasattr(extra, "help_behavior_hint")), None)
    about = given.help if given is not None and given.help else doc
    config = cast(Any, given or tyro.conf.arg())
    others = [extra for extra in extras if extra is not given]
    metavar = config.metavar or _metavar(inner)
    if tyro.conf.Positional in others:
        metavar = f"{name.upper()} ..." if typing.get_origin(inner) is tuple else name.upper()
        metavar = metavar if default is dataclasses.MISSING else f"[{metavar}]"
    config = dataclasses.replace(config, help=about, metavar=metavar, help_behavior_hint=_default(default, about))
    return Annotated[(inner, *others, config)]


def _metavar(hint: Any) -> str | None:
    """What stands for the value of a flag; None for what tyro makes of it."""
    if hint is bool:
        return None
    inner = [one for one in typing.get_args(hint) if one is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and len(inner) == 1:
        return _metavar(inner[0])
    if typing.get_origin(hint) is Literal:
        return "[auto]" if typing.get_args(hint) == _AUTO else "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    if typing.get_origin(hint) is tuple:
        each = [_metavar(one) or "" for one in inner if one is not Ellipsis]
        return f"{each[0]} ..." if Ellipsis in inner else " ".join(each)
    return _WORDS.get(hint)


def _default(default: Any, about: str) -> str:
    """What is said about the default, unless the help says it."""
    if default is dataclasses.MISSING:
        return "(required)"
    says_nothing = default is None or isinstance(default, bool) or default in ("", (), "False")
    return "" if says_nothing or "default:" in about else f"(default: {default})"


def _described(cls: type, prog: str, description: str) -> str:
    """The text above the flags, with examples, as wide as the terminal."""
    width = shutil.get_terminal_size().columns
    text = " ".join(description.split())
    wrapped = textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ")  # tyro would join other lines
    lines = [f"  # {about}\n  {prog} {words}".rstrip() for about, words in getattr(cls, "EXAMPLES", ())]
    return "\n\n".join([wrapped, *(["\n".join(["examples:", *lines])] if lines else [])])


# --- values -----------------------------------------------------------------------------------------------------------


def _as(kind: type, value: Any) -> Any:
    """The default `value` of a group as an instance of what is shown in its place."""
    fields = {f.name: f for f in dataclasses.fields(cast(Any, kind))}
    nested = {name: f.default for name, f in fields.items() if name.startswith("group_") and not hasattr(value, name)}
    plain = {name: getattr(value, name) for name in fields if name not in nested}
    return kind(**plain, **{name: _as(type(group), value) for name, group in nested.items()})


def _back(cls: type[Args], parsed: Any) -> Args:
    """What was parsed as an instance of `cls`."""
    found: dict[str, Any] = {}

    def collect(part: Any) -> None:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name.startswith("group_") and dataclasses.is_dataclass(value):
                collect(value)
            else:
                found[field.name] = value

    collect(parsed)
    hints = typing.get_type_hints(cls)
    for name, value in found.items():
        if dataclasses.is_dataclass(hints[name]) and dataclasses.is_dataclass(value):
            found[name] = _back(cast(type, hints[name]), value)
    return cls(**found)


# --- switches ---------------------------------------------------------------------------------------------------------


def _switches(cls: type) -> dict[str, bool | str]:
    """Switch -> its default, including the switches of groups."""
    found: dict[str, bool | str] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cast(Any, cls)):
        hint = hints[field.name]
        if hint is bool or (typing.get_origin(hint) is Literal and typing.get_args(hint) == _AUTO):
            found[field.name] = cast(bool | str, field.default)
        elif dataclasses.is_dataclass(hint):
            inner = _switches(cast(type, hint))
            found |= {name: getattr(field.default, name, default) for name, default in inner.items()}
    return found


def _plain_switches(defaults: Mapping[str, bool | str], argv: Sequence[str]) -> list[str]:
    """`argv` with every switch as tyro reads it: --resume=True for one that can be left to the command; others
    --resume, or --no-resume where the default is True, and nothing where it is the default anyway."""
    result, chosen = chosen_switches(defaults, argv)
    for name, value in chosen.items():
        if isinstance(defaults[name], bool):
            if (value == "True") is not defaults[name]:
                result.insert(0, f"--{name}" if value == "True" else f"--no-{name}")
        else:
            result.insert(0, f"--{name}={value}")
    return result


def chosen_switches(
    defaults: Mapping[str, bool | str], argv: Sequence[str]
) -> tuple[list[str], dict[str, Literal["True", "False", "auto"]]]:
    """(the other words of `argv`, switch -> its value).

    A switch may be --resume, --resume=True, --resume True, --no-resume or --resume=False, true and false in any case;
    the last one counts. Raises `UserError` for another value.

    Args:
        defaults: switch -> its default, which is a bool unless it can also be left to the command (auto).
        argv: the arguments.
    """
    words: dict[str, Literal["True", "False", "auto"]] = {"true": "True", "false": "False", "auto": "auto"}
    others: list[str] = []
    chosen: dict[str, Literal["True", "False", "auto"]] = {}
    pairs = iter(itertools.pairwise([*argv, ""]))
    for token, following in pairs:
        bare, equals, value = token.partition("=")
        name = bare.removeprefix("--").replace("-", "_")
        is_off = name.startswith("no_") and name.removeprefix("no_") in defaults
        name = name.removeprefix("no_") if is_off else name
        if not token.startswith("--") or name not in defaults:
            others.append(token)
            continue
        allowed = list(words)[: 2 if isinstance(defaults[name], bool) else 3]
        if equals and (is_off or value.lower() not in allowed):
            expected = " or ".join(words[word] for word in allowed)
            raise UserError(f"{bare}: expected {'no value' if is_off else expected}, got {value!r}")
        if not equals and not is_off and following.lower() in allowed:
            value = following
            next(pairs, None)
        chosen[name] = "False" if is_off else words[value.lower() or "true"]
    return others, chosen
