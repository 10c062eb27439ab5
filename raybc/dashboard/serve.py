"""Serving the page: alone until Ctrl-C, or beside a sweep until it ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from raybc.dashboard.filming import Filmer
from raybc.dashboard.index import Index
from raybc.dashboard.view import RunView
from raybc.extras import require_extra
from raybc.web import listening

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

#: The page is served on this machine only; from another one: ssh -L 8420:127.0.0.1:8420 machine.
HOST = "127.0.0.1"
PORT = 8420


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}/"


def make_server(*views: RunView, read_only: bool = False) -> uvicorn.Server:
    """The server for one or several run folders. A missing package is a `UserError` with the line that installs it.

    read_only: whether it films no episodes.
    """
    require_extra("the dashboard", "dashboard", "starlette", "uvicorn")
    # Here, because it needs the packages that were just checked.
    from raybc.dashboard.app import make_app

    return _server(make_app(*views, filmer=_filmer(read_only)))


def make_index_server(index: Index, read_only: bool = False) -> uvicorn.Server:
    """The server for a folder with run folders; otherwise as `make_server`."""
    require_extra("the dashboard", "dashboard", "starlette", "uvicorn")
    from raybc.dashboard.app import make_index_app

    return _server(make_index_app(index, filmer=_filmer(read_only)))


def _filmer(read_only: bool) -> Filmer:
    return Filmer(off="This dashboard was started with --read_only." if read_only else "")


def _server(app: Starlette) -> uvicorn.Server:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def beside(run_dir: Path | Sequence[Path], port: int) -> AbstractContextManager[str]:
    """Serve the page of a run folder, or of several, in a thread of this process while the block runs; yields its
    address."""
    return _beside(make_server(*map(RunView, [run_dir] if isinstance(run_dir, Path) else run_dir)), port)


def beside_index(folder: Path, port: int) -> AbstractContextManager[str]:
    """Serve the index of a folder in the same way."""
    return _beside(make_index_server(Index(folder)), port)


@contextlib.contextmanager
def _beside(server: uvicorn.Server, port: int) -> Iterator[str]:
    with contextlib.closing(listening(HOST, port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="dashboard", daemon=True)
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join(timeout=5)


def until_ctrl_c() -> None:
    """Wait until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
