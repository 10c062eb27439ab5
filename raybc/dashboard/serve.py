"""Serving the page: by itself until Ctrl-C, or beside a sweep until that ends."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raybc.dashboard.view import RunView
from raybc.types import UserError

if TYPE_CHECKING:
    import uvicorn

#: The page is for this machine; from elsewhere: ssh -L 8420:127.0.0.1:8420 machine.
HOST = "127.0.0.1"
PORT = 8420


def listen(port: int) -> socket.socket:
    """A socket on the loopback interface (port 0: any free one). Refuses a port that is in use."""
    if not 0 <= port <= 65535:
        raise UserError(f"port: expected 0..65535, got {port}")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        reasons = {errno.EADDRINUSE: "is in use", errno.EACCES: "may not be used by this user"}
        if error.errno not in reasons:
            raise
        raise UserError(
            f"port {port} of {HOST} {reasons[error.errno]}; choose another, or 0 for any that is free"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}/"


def make_server(view: RunView) -> uvicorn.Server:
    """The server for a run folder. A missing package is refused with the line that installs it."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the dashboard needs {' and '.join(missing)}: pip install 'raybc[dashboard]'")
    import uvicorn

    from raybc.dashboard.app import make_app

    config = uvicorn.Config(
        make_app(view),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


@contextlib.contextmanager
def beside(run_dir: Path, port: int) -> Iterator[str]:
    """Serve the page of a run folder in a thread of this process while the block runs; gives its address."""
    server = make_server(RunView(run_dir))
    with contextlib.closing(listen(port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="dashboard", daemon=True)
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join(timeout=5)
