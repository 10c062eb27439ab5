"""`python -m raybc.dashboard RUN_DIR`: a web page on this machine that shows a sweep while it runs and afterwards."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.dashboard.index import Index, is_index
from raybc.dashboard.serve import HOST, PORT, make_index_server, make_server, url_of
from raybc.dashboard.view import views_of
from raybc.waiting import waiting
from raybc.web import listening


@dataclass(frozen=True)
class Args:
    """Show a sweep in the browser, or several side by side, or an index of a folder of runs, on this machine only.
    Nothing is written, except films of episodes that you ask for (into filmed/ in the run folder). Ctrl-C ends it."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that `python -m raybc.sweep` wrote or is writing, or one folder that contains run folders."""
    port: int = PORT
    """Port on 127.0.0.1 (0: any free port)."""
    read_only: bool = False
    """Do not offer to film episodes, the one thing that a page can have made."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.dashboard", Args.__doc__ or "")
    with waiting("Reading the run folders"):
        if len(args.run_dirs) == 1 and is_index(args.run_dirs[0]):
            server = make_index_server(Index(args.run_dirs[0]), read_only=args.read_only)
            listener = listening(HOST, args.port)
        else:
            views = views_of(args.run_dirs)
            server = make_server(*views, read_only=args.read_only)
            listener = listening(HOST, args.port)
            for view in views:
                view.refresh()
    shown = ", ".join(map(str, args.run_dirs))
    cli.console.print(f"{shown}: {url_of(listener)} (Ctrl-C ends)")
    server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
