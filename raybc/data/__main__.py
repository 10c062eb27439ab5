"""Data sets: `python -m raybc.data verify demos.hdf5 --env_name lift-human-low_dim`.

info summarises a data set, stats its values, verify finds what is wrong with it, view writes a page about it, quality
scores its episodes; convert writes it in another format.
"""

from __future__ import annotations

import functools
import pkgutil
import sys
from typing import Any

from raybc import cli
from raybc.data.args import ConvertArgs, InfoArgs, StatsArgs, VerifyArgs, ViewArgs
from raybc.data.quality.args import QualityArgs

#: Flags of each command.
FLAGS: dict[str, type] = {
    "info": InfoArgs, "stats": StatsArgs, "verify": VerifyArgs, "view": ViewArgs, "quality": QualityArgs,
    "convert": ConvertArgs,
}  # fmt: skip
#: The function that gets the flags, by name, because it imports packages that --help need not wait for.
FUNCTIONS = {
    "info": "raybc.data.commands:info",
    "stats": "raybc.data.commands:stats",
    "verify": "raybc.data.commands:verify_command",
    "view": "raybc.data.view:view",
    "quality": "raybc.data.quality.command:quality",
    "convert": "raybc.data.conversion:convert",
}
USAGE = """usage: python -m raybc.data {info,stats,verify,view,quality,convert} PATH_OR_NAME [flags]

  info     summary of a data set             demos.hdf5 [--json]
  stats    statistics of its values          demos.hdf5 [--split train] [--json]
  verify   what is wrong with it             demos.hdf5 [--env-name lift-human-low_dim] [--replay 8]
  view     a page with figures and images    demos.hdf5 [--out page.html] [--plan plans/ten]
  quality  scores of its episodes            demos.hdf5 [--labels mine.csv] [--out FOLDER]
  convert  write it in another format        demos.hdf5 --out FOLDER [--format lerobot]

python -m raybc.data verify --help lists every flag with its default.
"""


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    return cli.run_command({name: functools.partial(_run, name) for name in FLAGS}, USAGE, argv)


def _run(name: str, argv: list[str]) -> int:
    flags = FLAGS[name]
    args: Any = cli.parse(flags, argv, f"raybc.data {name}", flags.__doc__ or "")
    status: int = pkgutil.resolve_name(FUNCTIONS[name])(args)
    return status


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
