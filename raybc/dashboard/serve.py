"""Serving the page: alone until Ctrl-C, or beside a sweep until it ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raybc.dashboard.view import RunView
from raybc.extras import require_extra
from raybc.web import listening

if TYPE_CHECKING:
    import uvicorn

#: The page is served on this machine only; from another one: ssh -L 8420:127.0.0.1:8420 machine.
HOST = "127.0.0.1"
PORT = 8420


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}/"


def make_server(*views: RunView) -> uvicorn.Server:
    """The server for one or several run folders. A missing package is a `UserError` with the line that installs it."""
    require_extra("the dashboard", "dashboard", "starlette", "uvicorn")
    # Here, because they need the packages that were just checked.
    import uvicorn

    from raybc.dashboard.app import make_app

    config = uvicorn.Config(
        make_app(*views),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


@contextlib.contextmanager
def beside(run_dir: Path | Sequence[Path], port: int) -> Iterator[str]:
    """Serve the page of a run folder, or of several, in a thread of this process while the block runs; yields its
    address."""
    server = make_server(*map(RunView, [run_dir] if isinstance(run_dir, Path) else run_dir))
    with contextlib.closing(listening(HOST, port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="dashboard", daemon=True)
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join(timeout=5)
