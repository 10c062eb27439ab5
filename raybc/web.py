"""Shared by the servers `raybc.dashboard` and `raybc.serve`."""

from __future__ import annotations

import errno
import socket

from raybc.types import UserError

_REASONS = {errno.EADDRINUSE: "is in use", errno.EACCES: "may not be used by this user"}


def listening(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any free port. Raises `UserError` if it cannot listen there."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port: expected 0..65535, got {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"cannot be listened on ({error.strerror or error})")
        raise UserError(f"port {port} of {host} {reason}; choose another, or 0 for any that is free") from None
