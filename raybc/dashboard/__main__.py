"""`python -m raybc.dashboard RUN_DIR`: a web page on this machine that shows a sweep while it runs and afterwards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.dashboard.serve import HOST, PORT, make_server, url_of
from raybc.dashboard.view import RunView, check_run
from raybc.types import UserError
from raybc.web import listening


@dataclass(frozen=True)
class Args:
    """Show a sweep in the browser, or compare several, on this machine only, without writing anything. Ctrl-C ends
    it."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that `python -m raybc.sweep` wrote or is writing."""
    port: int = PORT
    """Port on 127.0.0.1 (0: any free port)."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.dashboard", Args.__doc__ or "")
    views = views_of(args.run_dirs)
    server = make_server(*views)
    listener = listening(HOST, args.port)
    for view in views:
        view.refresh()
    shown = ", ".join(map(str, args.run_dirs))
    cli.console.print(f"{shown}: {url_of(listener)} (Ctrl-C ends)")
    server.run(sockets=[listener])
    return 0


def views_of(folders: Sequence[Path]) -> list[RunView]:
    """The sweeps in these folders. Raises `UserError` for what is no sweep, and for one that is named twice."""
    if not folders:
        raise UserError("expected the folder of a sweep, or several: raybc dashboard RUN [RUN ...]")
    for folder in folders:
        check_run(folder)
    places = [folder.resolve() for folder in folders]
    twice = next((f for f, place in zip(folders, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: expected different sweeps, got this one twice")
    return [RunView(folder) for folder in folders]


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
