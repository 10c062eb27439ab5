"""`raybc completion bash`: a script that completes commands and flags in bash, zsh or fish.

The script is tyro's, for all commands together; it holds their names and needs only some Python 3 when TAB is pressed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, ClassVar, Literal, Union

import tyro

from raybc import cli, flags

Shell = Literal["bash", "zsh", "fish"]


@dataclass(frozen=True)
class Args:
    """Print a script that completes commands and flags of raybc at the TAB key."""

    EXAMPLES: ClassVar = (
        ("bash, in every shell: put this into ~/.bashrc", "bash > ~/.raybc.bash; . ~/.raybc.bash"),
        ("zsh: a folder of $fpath", 'zsh > "${fpath[1]}/_raybc"'),
        ("fish", "fish > ~/.config/fish/completions/raybc.fish"),
    )

    shell: tyro.conf.Positional[Shell]
    """The shell: bash, zsh or fish."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.completion", Args.__doc__ or "")
    print(script(args.shell))
    return 0


def script(shell: Shell) -> str:
    """The script for a shell."""
    from raybc.__main__ import COMMANDS

    flags_of = {name: _flags_of(module) for name, (module, _) in COMMANDS.items()}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.cli(
            _choice({name: _command(name, found) for name, found in flags_of.items()}),
            prog="raybc",
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
    # A word that is no flag may be a file, such as a run folder.
    return printed.getvalue().strip().replace("complete -F ", "complete -o default -F ")


def _flags_of(module: str) -> type | Mapping[str, type]:
    """The flags of a command, or those of each of its own commands."""
    found = importlib.import_module(module)
    if hasattr(found, "FLAGS"):  # of what stands after the command
        return dict(found.FLAGS)
    return found.all_flags() if hasattr(found, "all_flags") else found.Args


def _command(name: str, found: type | Mapping[str, type]) -> type:
    if isinstance(found, Mapping):
        inner = _choice({sub: flags.shown(cls) for sub, cls in found.items()})
        return make_dataclass(name, [("command", inner)], frozen=True)
    return flags.shown(found)


def _choice(commands: Mapping[str, type]) -> Any:
    """One of several commands, as tyro reads it."""
    named = [Annotated[cls, tyro.conf.subcommand(name=name)] for name, cls in commands.items()]
    return Union[tuple(named)]  # noqa: UP007 (of a number of types that is not known here)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
