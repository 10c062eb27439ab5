"""`vla-eval:HOST:PORT`: a model server of the VLA evaluation harness (Allen Institute, `vla-eval`).

Messages are maps in msgpack: type, payload, seq, timestamp. After `hello`, an episode is `episode_start`, then an
`observation` for each `action` (or `error`), then `episode_end`. Arrays are maps of __ndarray__, data, dtype, shape.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raybc._version import __version__
from raybc.foreign.base import INSTRUCTION, About, ForeignPolicy, Kind, as_chunk
from raybc.foreign.inputs import LIBERO_STATE, Inputs
from raybc.foreign.reference import Reference
from raybc.foreign.sockets import Connection, address
from raybc.inference.predictor import PolicyError
from raybc.types import UserError

PROTOCOL = 1
#: What servers are sent for LIBERO; a / in a name makes a map inside the map.
LIBERO = (
    "images/agentview=agentview_image:mirror:256,images/wrist=robot0_eye_in_hand_image:mirror:256,"
    f"states={LIBERO_STATE},task_description=instruction"
)


class VlaEvalPolicy(ForeignPolicy):
    """One connection, over which the server keeps a session with its buffer of actions."""

    def __init__(self, reference: Reference, about: About) -> None:
        self._reference, self._about = reference, about
        self._inputs = _inputs(reference, about)
        self._connection: Connection | None = None
        self._seq = self._asked = self._seed = 0
        self._started = False

    def reset(self, seed: int) -> None:
        self._started, self._seed = False, seed

    def ask(self, steps: Sequence[Mapping[str, Any]]) -> None:
        if self._connection is not None and not self._connection.is_open and self._started:
            raise PolicyError("the server went away in the middle of the episode")
        if self._connection is None or not self._connection.is_open:
            self._connection = connect(self._reference)
        if not self._started:
            text = steps[-1][INSTRUCTION]
            self._send("episode_start", {"task": {"name": text or self._about.task, "seed": self._seed}})
            self._started = True
        self._asked = self._send("observation", _nested(self._inputs.of(steps[-1])))

    def answer(self) -> Any:
        assert self._connection is not None
        while True:
            kind, payload, seq = _message(self._connection)
            if kind == "error":
                raise PolicyError(f"the server refused: {payload.get('error', payload)}")
            if kind == "action" and seq == self._asked:
                break
        actions = payload.get("actions", payload.get("action"))
        chunk_HA = as_chunk(actions, self._about.action_size, "the server")
        if self._about.task.startswith("libero_"):  # as the harness does: the gripper is closed or open
            chunk_HA = chunk_HA.copy()
            chunk_HA[:, -1] = np.where(chunk_HA[:, -1] < 0, -1.0, 1.0)
        return chunk_HA

    def end(self, outcome: str) -> None:
        if self._connection is not None and self._connection.is_open and self._started:
            self._send("episode_end", {"metrics": {"success": outcome == "success"}})
        self._started = False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _send(self, kind: str, payload: Mapping[str, Any]) -> int:
        assert self._connection is not None
        self._seq += 1
        self._connection.send(packed(kind, payload, self._seq))
        return self._seq


def packed(kind: str, payload: Mapping[str, Any], seq: int) -> bytes:
    """A message."""
    import msgpack

    raw = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    found: bytes = msgpack.packb(raw, default=_array)
    return found


def _array(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}


def connect(reference: Reference) -> Connection:
    """A connection whose server has said hello."""
    connection = Connection(reference)
    connection.send(packed("hello", {"harness_version": f"raybc {__version__}", "protocol_version": PROTOCOL}, 0))
    kind, payload, _ = _message(connection)
    spoken = payload.get("protocol_version", PROTOCOL)
    if kind != "hello" or spoken != PROTOCOL:
        connection.close()
        what = f"{kind!r}" if kind != "hello" else f"protocol {spoken}"
        raise PolicyError(f"the server: expected 'hello' of protocol {PROTOCOL}, got {what}")
    return connection


def _message(connection: Connection) -> tuple[str, dict[str, Any], int]:
    """Type, payload and number of the next message."""
    from raybc.serve.wire import unpack

    received = connection.receive()
    try:
        found = unpack(received if isinstance(received, bytes) else received.encode())
    except UserError as error:
        connection.close()
        raise PolicyError(f"the server: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("payload"), dict):
        connection.close()
        raise PolicyError("the server: expected a map with type, payload and seq, got something else")
    return str(found.get("type")), found["payload"], int(found.get("seq") or 0)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return found


def _inputs(reference: Reference, about: About) -> Inputs:
    if reference.inputs:
        found = Inputs.read(reference.inputs)
    elif about.task.startswith("libero_"):
        found = Inputs.read(LIBERO)
    else:
        images = {name: shape for name, shape in about.observations.items() if len(shape) > 1}
        others = [name for name in about.observations if name not in images]
        entries = [f"images/{name}={name}" for name in images] + ([f"states={'+'.join(others)}"] if others else [])
        found = Inputs.read(",".join([*entries, "task_description=instruction"]))
    found.check(about.observations, about.task, reference.shown)
    return found


class _VlaEval(Kind):
    options = ("inputs", "timeout")
    threaded = True

    def parse(self, reference: Reference) -> Reference:
        address(reference)
        if reference.inputs:
            Inputs.read(reference.inputs)
        try:
            connect(reference).close()
        except PolicyError as error:
            raise UserError(f"{reference.shown}: {error}") from None
        return reference

    def content(self, reference: Reference) -> str:
        """A server says nothing that names its model."""
        return ""

    def open(self, reference: Reference, about: About) -> ForeignPolicy:
        return VlaEvalPolicy(reference, about)


KIND = _VlaEval()
