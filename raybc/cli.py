"""What all command lines share: one clear message and a meaningful exit status.

0 well; 1 something failed on the way (results so far are kept); 2 a mistake in what was asked; 130 Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console

from raybc.types import UserError

Args = TypeVar("Args")

#: Progress and results are for people; machine-readable results are files in the run folder.
console = Console(highlight=False, soft_wrap=True, markup=False)


class Failed(RuntimeError):
    """The work could not be done, though nothing was wrong with what was asked (status 1)."""


class Interrupted(RuntimeError):
    """Stopped by Ctrl-C; the message says how to go on (status 130)."""


def parse(cls: type[Args], argv: Sequence[str] | None, prog: str, description: str) -> Args:
    """`cls` (a dataclass) from command-line flags: --flag=value and --flag value, dashes or underscores.

    Switches are given as --resume as well as --resume=True, and --no-resume is --resume=False.
    """
    return tyro.cli(
        cls,
        args=_spell_out_switches(cls, list(sys.argv[1:] if argv is None else argv)),
        prog=as_typed(f"python -m {prog}"),
        description=description,
        config=(tyro.conf.FlagConversionOff,),
    )


def described(text: str) -> Any:
    """The type of a text flag with its help."""
    return Annotated[str, tyro.conf.arg(help=text)]


def flat_group(cls: type) -> Any:
    """A dataclass as a group of flags: a box of its own in --help, and no prefix before its flags."""
    return Annotated[cls, tyro.conf.OmitArgPrefixes]


def as_typed(text: str) -> str:
    """`text` with every `python -m raybc.X` written the way this process was started, e.g. `raybc X`."""
    program = Path(sys.argv[0])
    if program.name == "raybc":
        return text.replace("python -m raybc.", "raybc ")
    if program.parts[-2:] == ("raybc", "__main__.py"):
        return text.replace("python -m raybc.", "python -m raybc ")
    return text


def _spell_out_switches(cls: type, argv: list[str]) -> list[str]:
    """--flag, --no-flag and true/false in any case as tyro wants them: --flag=True."""
    switches = _switches(cls)

    def values_of(token: str, prefix: str = "--") -> frozenset[str]:
        """What the switch `token` may be set to; nothing where it is no switch."""
        name = token.removeprefix(prefix).replace("-", "_") if token.startswith(prefix) else ""
        return switches.get(name, frozenset())

    def spelled(value: str) -> str:
        return value.capitalize() if value.lower() in ("true", "false") else value

    result: list[str] = []
    is_value = False
    for token, following in itertools.pairwise([*argv, ""]):
        name, equals, value = token.partition("=")
        if is_value:
            result.append(spelled(token))
            is_value = False
            continue
        if equals and value.lower() in values_of(name):
            token = f"{name}={spelled(value)}"
        elif values_of(token, "--no-"):
            token = f"--{token.removeprefix('--no-')}=False"
        elif following.lower() in values_of(token):
            is_value = True
        elif values_of(token):
            token = f"{token}=True"
        result.append(token)
    return result


def _switches(cls: type) -> dict[str, frozenset[str]]:
    """The flags that are true or false (or auto), also those of groups -> what they may be set to, in lower case."""
    found: dict[str, frozenset[str]] = {}
    for name, hint in typing.get_type_hints(cls).items():
        values = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        if hint is bool or values == ("False", "True", "auto"):
            found[name] = frozenset({"true", "false", *(["auto"] if values else [])})
        elif dataclasses.is_dataclass(hint):
            found |= _switches(typing.cast(type, hint))
    return found


def run_command(commands: Mapping[str, Callable[[list[str]], int]], usage: str, argv: list[str]) -> int:
    """Of a command line that begins with the name of a command: run that one with the rest, or print `usage`."""
    if argv[:1] in (["--help"], ["-h"]):
        print(as_typed(usage), end="")
        return 0
    if not argv or argv[0] not in commands:
        raise UserError(f"expected one of {', '.join(commands)}, got {argv[0] if argv else 'nothing'}; see --help")
    return commands[argv[0]](argv[1:])


def run_main(main: Callable[[], int | None]) -> int:
    """Run a command; turn what users can cause into one line on stderr and an exit status."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"\ninterrupted: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"failed: no room on the disk: {error}; nothing half-written was left", file=sys.stderr)
            return 1
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            print(f"error: not allowed to write: {error}", file=sys.stderr)
            return 2
        raise


def refuse_existing(folder: Path, resume: bool, overwrite: bool) -> None:
    """A run folder that is there is neither continued nor lost by accident."""
    if resume and overwrite:
        raise UserError("expected --resume or --overwrite, got both")
    if folder.exists() and any(p.name != ".lock" for p in folder.iterdir()) and not (resume or overwrite):
        raise UserError(
            f"{folder}: this run folder exists; continue it with --resume, replace it with --overwrite, "
            "or choose another with --out"
        )
