"""`python -m raybc.report RUN_DIR`: rewrite leaderboard.md and report.html of a sweep, or write a training's page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.report.html import write_report
from raybc.report.markdown import write_leaderboard_md
from raybc.report.training import members_of, write_training_report


@dataclass(frozen=True)
class Args:
    """Rewrite leaderboard.md and report.html of a sweep from the files in its run folder, or write report.html of a
    training run with --action_metrics (one for each seed)."""

    run_dir: tyro.conf.Positional[Path]
    """Folder that `python -m raybc.sweep` or `python -m raybc.train` wrote."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.report", Args.__doc__ or "")
    members = members_of(args.run_dir)
    for member in members:
        cli.console.print(f"report: {write_training_report(member)}")
    if members:
        return 0
    write_leaderboard_md(args.run_dir)
    cli.console.print(f"report: {write_report(args.run_dir)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
