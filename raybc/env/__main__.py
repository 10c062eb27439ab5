"""`raybc env {build,list,check,remove}`: environments of simulators whose packages contradict those of training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from raybc import cli
from raybc.env.build import build, damage, take_away
from raybc.env.environment import Environment, override, read_manifest, root
from raybc.env.known import ENVIRONMENTS, find
from raybc.types import UserError


@dataclass(frozen=True)
class BuildArgs:
    """Build the environment of a suite with venv and pip, whole or not at all."""

    suite: tyro.conf.Positional[str]
    """A suite (`raybc env list`), or a module of your own with an attribute ENVIRONMENT."""
    overwrite: bool = False
    """Build it again, even if it is complete."""


@dataclass(frozen=True)
class ListArgs:
    """List the environments of suites: what there is on this machine."""

    json: bool = False
    """Print it as JSON."""


@dataclass(frozen=True)
class CheckArgs:
    """Say for each environment whether it can be used, and what to do if not. Exit status 1 if one cannot."""

    suite: tyro.conf.Positional[str] = ""
    """A suite or a module of your own (default: all that are known or built)."""


@dataclass(frozen=True)
class RemoveArgs:
    """Delete the environment of a suite from this machine."""

    suite: tyro.conf.Positional[str]
    """A suite, or a module of your own."""


def build_command(argv: list[str]) -> int:
    """Run `raybc env build`."""
    args = cli.parse(BuildArgs, argv, "raybc.env build", BuildArgs.__doc__ or "")
    environment = find(args.suite)
    total = len(environment.wanted)
    columns = (TextColumn("environment {task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())  # fmt: skip  # noqa: E501
    with cli.progress(*columns) as progress:
        bar = progress.add_task("waiting", total=total, name=environment.name)

        def show(done: int, what: str) -> None:
            progress.update(bar, completed=min(done, total), description=what)

        made = build(environment, show, args.overwrite)
        show(total, "complete")
    cli.console.print(f"{'built' if made else 'already complete'}: {environment.folder}")
    return 0


def list_command(argv: list[str]) -> int:
    """Run `raybc env list`."""
    args = cli.parse(ListArgs, argv, "raybc.env list", ListArgs.__doc__ or "")
    rows = []
    for environment in _all():
        status, manifest = environment.status(), read_manifest(environment.folder) or {}
        rows.append(
            {
                "name": environment.name,
                "state": status.state,
                "detail": status.detail,
                "python": str(environment.python),
                "megabytes": manifest.get("megabytes"),
                "packages": manifest.get("packages", {}),
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = Table("environment", "state", "interpreter")
    for row in rows:
        table.add_row(row["name"], row["detail"], row["python"])
    cli.print_whole(table)
    return 0


def check_command(argv: list[str]) -> int:
    """Run `raybc env check`."""
    args = cli.parse(CheckArgs, argv, "raybc.env check", CheckArgs.__doc__ or "")
    broken = 0
    for environment in [find(args.suite)] if args.suite else _all():
        line, usable = checked(environment)
        cli.console.print(line)
        broken += not usable
    return 1 if broken else 0


def checked(environment: Environment) -> tuple[str, bool]:
    """A line about an environment, also about packages that were deleted later, and whether it can be used."""
    status = environment.status()
    if status.state == "complete" and override(environment.name) is None and (what := damage(environment)):
        return f"environment {environment.name}: damaged ({what}); raybc env build {environment.name}", False
    return status.line(environment.name), status.state == "complete"


def remove_command(argv: list[str]) -> int:
    """Run `raybc env remove`."""
    args = cli.parse(RemoveArgs, argv, "raybc.env remove", RemoveArgs.__doc__ or "")
    environment = find(args.suite)
    if not environment.folders():
        raise UserError(f"environment {environment.name}: there is nothing to remove in {root()}")
    cli.console.print(f"removed {take_away(environment) >> 20} MB from {root()}")
    return 0


def _all() -> list[Environment]:
    """The environments of raybc's own suites."""
    return [find(name) for name in ENVIRONMENTS]


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "build": build_command, "list": list_command, "check": check_command, "remove": remove_command,
}  # fmt: skip
USAGE = """usage: python -m raybc.env {build,list,check,remove} [SUITE] [flags]

  build   build the environment of a suite   libero, ocbench, lerobot
  list    what there is on this machine
  check   whether it can be used             [libero]
  remove  delete it                          libero

python -m raybc.env build --help lists every flag with its default.
"""


#: Flags of each of its commands, for the completion of a shell.
FLAGS: dict[str, type] = {"build": BuildArgs, "list": ListArgs, "check": CheckArgs, "remove": RemoveArgs}


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    return cli.run_command(COMMANDS, USAGE, argv)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
