"""Shared parts of all command lines: parsing, error messages and exit statuses.

0 success; 1 a failure at run time (results so far are kept); 2 a mistake of the user; 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table

from raybc import flags
from raybc.files import expanded
from raybc.notebook import plain_in_kernel, progress_of
from raybc.types import PlainError, UserError

Args = TypeVar("Args")

#: Where lines of the console go as well.
_COPIES: list[Callable[[str], None]] = []


class _CopiedConsole(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if objects and all(isinstance(part, str) for part in objects):  # no progress bars
            for copy in _COPIES:
                copy(" ".join(objects))


#: Progress and results are for people; machine-readable results are files in the run folder.
console: Console = _CopiedConsole(highlight=False, soft_wrap=True, markup=False, **plain_in_kernel())


@contextlib.contextmanager
def copied(write: Callable[[str], None]) -> Iterator[None]:
    """Call `write` with each text that is printed to the console."""
    _COPIES.append(write)
    try:
        yield
    finally:
        _COPIES.remove(write)


class Failed(PlainError, RuntimeError):
    """A failure at run time that is not a mistake of the user (status 1)."""


class Interrupted(PlainError, RuntimeError):
    """Stopped by Ctrl-C; the message says how to continue (status 130)."""


def print_notes(notes: Iterable[str]) -> None:
    """Print what the user should know before a command works on."""
    for note in notes:
        console.print(f"note: {note}", style="yellow")


def progress(*columns: str | ProgressColumn, **options: Any) -> Progress:
    """A `Progress` on the console; in a notebook an output of its cell."""
    return progress_of(*columns, console=console, **options)


@contextlib.contextmanager
def episodes_bar(
    what: str, total: int | None, quiet: bool = False, unit: str = "episodes"
) -> Iterator[Callable[[int], None]]:
    """A progress bar; call the function with the number of finished episodes (or of another unit)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with progress(*columns, disable=quiet) as shown:
        bar = shown.add_task(what, total=total)
        yield lambda done: shown.update(bar, completed=done)


def images_bar(what: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar; call the function with the number of images that have been read."""
    return episodes_bar(what, total, unit="images")


def print_whole(table: Table) -> None:
    """Print a table at its own width: on a narrow terminal lines wrap, but no number is cut."""
    if console.quiet:
        return
    wanted = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    whole = {"width": max(console.width, wanted), **plain_in_kernel()}
    Console(file=console.file, highlight=False, markup=False, **whole).print(table)


def parse(cls: type[Args], argv: Sequence[str] | None, prog: str, description: str) -> Args:
    """Parse command-line flags into `cls`, a dataclass.

    Flags are --flag=value or --flag value, with dashes or underscores. A switch is --resume or --resume=True, and
    --no-resume is --resume=False. Exits with status 2 for unknown flags or wrong values.

    Args:
        cls: one field per flag; the docstring under a field is its help. `raybc.flags` says how flags are grouped.
        argv: the arguments; None: those of this process.
        prog: the module, as in `python -m PROG`.
        description: the first line of --help.

    Raises `UserError` for a path that begins with the home of an unknown user, as in ~nobody/data.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parsed = flags.read(cls, words, as_typed(f"python -m {prog}"), description)
    return _with_homes(parsed)


def _with_homes(args: Args) -> Args:
    """`args` with ~ expanded in every path, which a shell leaves alone in --out=~/x."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, args)):
        value = getattr(args, field.name)
        if isinstance(value, Path):
            changed[field.name] = expanded(value, f"--{field.name}")
        elif isinstance(value, tuple) and any(isinstance(one, Path) for one in value):
            changed[field.name] = tuple(expanded(v, f"--{field.name}") if isinstance(v, Path) else v for v in value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            changed[field.name] = _with_homes(value)
    return dataclasses.replace(cast(Any, args), **changed) if changed else args


def described(text: str) -> Any:
    """The type of a string flag with the help `text`."""
    return Annotated[str, tyro.conf.arg(help=text)]


def as_typed(text: str) -> str:
    """`text` with every `python -m raybc.X` replaced by the way this process was started, e.g. `raybc X`."""
    program = Path(sys.argv[0])
    if program.name == "raybc":
        return text.replace("python -m raybc.", "raybc ")
    if program.parts[-2:] == ("raybc", "__main__.py"):
        return text.replace("python -m raybc.", "python -m raybc ")
    return text


def run_command(commands: Mapping[str, Callable[[list[str]], int]], usage: str, argv: list[str]) -> int:
    """Run the command that argv[0] names with the other arguments, or print `usage`.

    Returns the exit status. Raises `UserError` for an unknown command.
    """
    if argv[:1] in (["--help"], ["-h"]):
        print(as_typed(usage), end="")
        return 0
    if not argv or argv[0] not in commands:
        raise UserError(f"expected one of {', '.join(commands)}, got {argv[0] if argv else 'nothing'}; see --help")
    return commands[argv[0]](argv[1:])


def _reader_is_gone() -> bool:
    """Whether nobody reads what is printed, as after `raybc ... | head`. What is left goes nowhere, without a word."""
    output = select.poll()
    output.register(sys.stdout, 0)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def run_main(main: Callable[[], int | None]) -> int:
    """Run a command and return its exit status; expected errors become one line on stderr."""
    try:
        try:
            return main() or 0
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 128 + signal.SIGPIPE
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
