"""`python -m raybc.report RUN_DIR`: rewrite leaderboard.md and report.html from the files of a run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.report.html import write_report
from raybc.report.markdown import write_leaderboard_md


@dataclass(frozen=True)
class Args:
    """Rewrite leaderboard.md and report.html of a sweep from the files in its run folder."""

    run_dir: tyro.conf.Positional[Path]
    """Folder that `python -m raybc.sweep` wrote."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.report", Args.__doc__ or "")
    write_leaderboard_md(args.run_dir)
    cli.console.print(f"report: {write_report(args.run_dir)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
