"""`python -m raybc.report RUN_DIR`: rewrite leaderboard.md and report.html of a sweep, or write a training's page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.dashboard.view import views_of
from raybc.report.html import write_report
from raybc.report.markdown import write_leaderboard_md
from raybc.report.several import write_sweeps_page
from raybc.report.training import members_of, write_training_report
from raybc.types import UserError
from raybc.waiting import waiting


@dataclass(frozen=True)
class Args:
    """Rewrite leaderboard.md and report.html of a sweep from the files in its run folder, or write report.html of a
    training run with --action_metrics or --online_steps (one for each seed), or one page about several sweeps."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folder that `python -m raybc.sweep` or `python -m raybc.train` wrote, or folders of several sweeps."""
    out: Path | None = None
    """Page about several sweeps (default: sweeps.html beside the first one)."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.report", Args.__doc__ or "")
    if not args.run_dirs:
        raise UserError(
            "expected the folder of a sweep or of a training, or several sweeps: raybc report RUN [RUN ...]"
        )
    if len(args.run_dirs) > 1:
        views = views_of(args.run_dirs)
        page = args.out or args.run_dirs[0].resolve().parent / "sweeps.html"
        cli.console.print(f"report: {write_sweeps_page(views, page)}")
        return 0
    if args.out is not None:
        raise UserError("--out: expected several sweeps; the report of one is in its folder")
    (run_dir,) = args.run_dirs
    members = members_of(run_dir)
    for member in members:
        cli.console.print(f"report: {write_training_report(member, members)}")
    if members:
        return 0
    with waiting("Writing the report"):
        write_leaderboard_md(run_dir)
        page = write_report(run_dir)
    cli.console.print(f"report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
