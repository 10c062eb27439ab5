"""`openpi:HOST:PORT`: a policy behind openpi's WebSocket server, or any that speaks its protocol (`raybc serve` does).

The server sends its metadata first; every observation, a map in msgpack with arrays, is answered with `actions`, a
chunk (H, A), or with a text where something went wrong (Physical Intelligence, openpi, `packages/openpi-client`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raybc.foreign.base import About, ForeignPolicy, Kind, as_chunk
from raybc.foreign.inputs import LIBERO_STATE, Inputs
from raybc.foreign.reference import Reference
from raybc.foreign.sockets import Connection, address
from raybc.inference.predictor import PolicyError
from raybc.types import UserError

#: What openpi's policies of LIBERO are sent: images as their training had them, which are mirrored, of 224 pixels.
LIBERO = (
    "observation/image=agentview_image:mirror:224,observation/wrist_image=robot0_eye_in_hand_image:mirror:224,"
    f"observation/state={LIBERO_STATE},prompt=instruction"
)


class OpenpiPolicy(ForeignPolicy):
    """One connection; a new one for each episode, so that nothing of the last one is remembered."""

    def __init__(self, reference: Reference, about: About) -> None:
        self._reference, self._about = reference, about
        self._inputs = _inputs(reference, about)
        self._connection: Connection | None = None

    def reset(self, seed: int) -> None:
        self.close()

    def ask(self, steps: Sequence[Mapping[str, Any]]) -> None:
        from raybc.serve.wire import pack

        if self._connection is None or not self._connection.is_open:
            self._connection, _ = connect(self._reference)
        self._connection.send(pack(self._inputs.of(steps[-1])))

    def answer(self) -> Any:
        assert self._connection is not None
        found = _message(self._connection)
        if "actions" not in found:
            names = ", ".join(map(str, found)) or "nothing"
            self.close()
            raise PolicyError(f"the server: expected 'actions', got {names}")
        return as_chunk(found["actions"], self._about.action_size, "the server")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def connect(reference: Reference) -> tuple[Connection, dict[str, Any]]:
    """A connection, and the metadata that the server sends first."""
    connection = Connection(reference)
    return connection, _message(connection)


def _message(connection: Connection) -> dict[str, Any]:
    from raybc.serve.wire import unpack

    received = connection.receive()
    if isinstance(received, str):  # openpi sends a traceback, raybc one line
        lines = [line for line in received.splitlines() if line.strip()] or ["an empty text"]
        connection.close()
        raise PolicyError(f"the server refused: {lines[-1].strip()}")
    try:
        found = unpack(received)
    except UserError as error:
        connection.close()
        raise PolicyError(f"the server: {error}") from None
    if not isinstance(found, dict):
        connection.close()
        raise PolicyError(f"the server: expected a map, got {type(found).__name__}")
    return found


def _inputs(reference: Reference, about: About) -> Inputs:
    if reference.inputs:
        found = Inputs.read(reference.inputs)
    elif about.task.startswith("libero_"):
        found = Inputs.read(LIBERO)
    else:
        found = Inputs.plain(about.observations, "prompt" if about.instruction else "")
    found.check(about.observations, about.task, reference.shown)
    return found


class _Openpi(Kind):
    options = ("inputs", "timeout")
    threaded = True

    def parse(self, reference: Reference) -> Reference:
        address(reference)
        if reference.inputs:
            Inputs.read(reference.inputs)
        try:
            connection, _ = connect(reference)
        except PolicyError as error:
            raise UserError(f"{reference.shown}: {error}") from None
        connection.close()
        return reference

    def content(self, reference: Reference) -> str:
        """What the server says about itself."""
        try:
            connection, metadata = connect(reference)
        except PolicyError as error:
            raise UserError(f"{reference.shown}: {error}") from None
        connection.close()
        return json.dumps(metadata, sort_keys=True, default=str)[:2000] if metadata else ""

    def open(self, reference: Reference, about: About) -> ForeignPolicy:
        return OpenpiPolicy(reference, about)


KIND = _Openpi()
