"""WebSocket connections to policies on servers. What goes wrong on the way is a `PolicyError`."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

from raybc.extras import require_extra
from raybc.foreign.reference import Reference
from raybc.inference.predictor import PolicyError
from raybc.types import UserError

_PLACE = re.compile(r"(?:(?P<scheme>wss?)://)?(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d+)(?P<path>/\S*)?")
#: Largest message that is accepted, in bytes.
MAX_SIZE = 2**28
#: Seconds within which a connection must be there.
CONNECT_TIMEOUT = 10.0


def address(reference: Reference) -> str:
    """The address of the server. Raises `UserError` for what is no HOST:PORT."""
    found = _PLACE.fullmatch(reference.where)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise UserError(f"{reference.shown}: expected {reference.kind}:HOST:PORT, or with a path, HOST:PORT/ws")
    return f"{found['scheme'] or 'ws'}://{found['host']}:{found['port']}{found['path'] or ''}"


class Connection:
    """One connection, over which one question at a time is answered."""

    def __init__(self, reference: Reference) -> None:
        """Connect. Raises `PolicyError` where nobody answers."""
        self._timeout, self._where = reference.timeout, reference.shown
        client = require_extra(reference.shown, "serve", "websockets.sync.client", "msgpack")[0]
        self._errors = (OSError, require_extra(reference.shown, "serve", "websockets.exceptions")[0].WebSocketException)
        self._due = 0.0
        self._open = True
        try:
            self._socket: Any = client.connect(
                address(reference), compression=None, max_size=MAX_SIZE, proxy=None, ping_interval=None,
                open_timeout=min(CONNECT_TIMEOUT, self._timeout), close_timeout=1.0,
            )  # fmt: skip
        except self._errors as error:
            self._open = False
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PolicyError(f"no policy is served at {address(reference)}: {reason}") from None
        self.begin()

    @property
    def is_open(self) -> bool:
        """Whether the next question may be asked: everything was answered, and nothing went wrong."""
        return self._open

    def begin(self) -> None:
        """From now on, an answer is waited for."""
        self._due = time.monotonic() + self._timeout

    def send(self, message: bytes) -> None:
        """Send a message; its answer is due within the timeout."""
        self.begin()
        try:
            self._socket.send(message)
        except self._errors as error:
            self.close()
            raise PolicyError(f"the server went away: {' '.join(str(error).split())}") from None

    def receive(self) -> str | bytes:
        """The next message. A connection on which an answer is missing is closed: it might be the answer to the next
        question."""
        try:
            found: str | bytes = self._socket.recv(timeout=max(0.001, self._due - time.monotonic()))
        except TimeoutError:
            self.close()
            raise PolicyError(f"no answer within {self._timeout:g} s (--policy_timeout)") from None
        except self._errors as error:
            self.close()
            raise PolicyError(f"the server went away: {' '.join(str(error).split())}") from None
        return found

    def close(self) -> None:
        """Close it; a server that does not answer is waited for one second."""
        if self._open:
            self._open = False
            with contextlib.suppress(Exception):
                self._socket.close()
