"""`python -m raybc.report RUN_DIR`: write leaderboard.md and report.html again from what is on disk."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.report.html import write_report
from raybc.report.tables import write_leaderboard_md


@dataclass(frozen=True)
class Args:
    """Write leaderboard.md and report.html of a sweep's run folder again from what is on disk."""

    run_dir: tyro.conf.Positional[Path]
    """Folder that `python -m raybc.sweep` wrote."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.report", Args.__doc__ or "")
    write_leaderboard_md(args.run_dir)
    cli.console.print(f"report: {write_report(args.run_dir)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
