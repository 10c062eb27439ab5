"""`python -m raybc.dashboard RUN_DIR`: a web page on this machine that shows a sweep while it runs and afterwards."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.dashboard.serve import HOST, PORT, make_server, url_of
from raybc.dashboard.view import RunView, check_run
from raybc.web import listening


@dataclass(frozen=True)
class Args:
    """Show a sweep in the browser, on this machine only, without writing anything. Ctrl-C ends it."""

    run_dir: tyro.conf.Positional[Path]
    """Folder that `python -m raybc.sweep` wrote or is writing."""
    port: int = PORT
    """Port on 127.0.0.1 (0: any free port)."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.dashboard", Args.__doc__ or "")
    check_run(args.run_dir)
    view = RunView(args.run_dir)
    server = make_server(view)
    listener = listening(HOST, args.port)
    view.refresh()
    cli.console.print(f"{args.run_dir}: {url_of(listener)} (Ctrl-C ends)")
    server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
