"""`python -m raybc.recipes [NAME]`: list the recipes of the literature, or print one."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro
from rich.table import Table

from raybc import cli
from raybc.recipes.read import names, read_recipe, text_of


@dataclass(frozen=True)
class Args:
    """List the recipes that --recipe of a training and `recipe:` of a sweep know, or print one with its source."""

    name: tyro.conf.Positional[str] = ""
    """The recipe to print; its options may be edited and given to --config."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.recipes", Args.__doc__ or "")
    if args.name:
        print(text_of(args.name, "NAME"), end="")
        return 0
    table = Table("recipe", "policy", "objective", "task", "about", "source", box=None)
    for name in names():
        recipe = read_recipe(name, "NAME")
        chosen = (str(recipe.options.get(key, default)) for key, default in (
            ("policy", "flow"), ("objective", "flow"), ("env_name", "any"),
        ))  # fmt: skip
        table.add_row(name, *chosen, recipe.about, recipe.source.split(";")[0])
    cli.print_whole(table)
    cli.console.print(
        "\n" + cli.as_typed("python -m raybc.recipes NAME prints one: source, what differs, protocol, options")
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
