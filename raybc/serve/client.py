"""A policy on a server, with the methods of a local one.

    with RemotePolicy("http://127.0.0.1:8000") as policy:
        policy.reset(seed=0)
        action = policy.act(obs)

Needs numpy, msgpack and websockets, no torch. Letters: H chunk, A action dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from raybc.inference.observations import ActionRange, validate_action_range
from raybc.serve.wire import from_json, pack, unpack
from raybc.types import UserError


class RemotePolicy:
    """A session of a server, which keeps history, chunk and noise. `metadata` describes the policy.

    Raises `UserError` if the server refuses a message, and `ConnectionError` if it cannot be reached or the connection
    breaks (observations are then lost: start a new episode).
    """

    def __init__(
        self, url: str, token: str = "", action_range: ActionRange | None = None, timeout: float = 30.0
    ) -> None:
        """
        Args:
            url: http://HOST:PORT of the server.
            token: the token of the server, if it has one.
            action_range: see `raybc.load`.
            timeout: seconds to wait for an answer.
        """
        scheme, separator, place = url.rstrip("/").partition("://")
        if not separator or scheme not in ("http", "https", "ws", "wss"):
            raise UserError(f"url: expected http://HOST:PORT, got {url!r}")
        where = f"{scheme.replace('http', 'ws')}://{place}/ws"
        self._url, self._timeout = url, timeout
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._socket = connect(
                where, additional_headers=headers, compression=None, max_size=2**26, open_timeout=timeout, proxy=None
            )
        except InvalidStatus as error:
            raise UserError(f"{url}: {_refusal(error)}") from None
        except (OSError, WebSocketException) as error:
            raise ConnectionError(f"{url}: no policy is served there: {error}") from None
        self.metadata: dict[str, Any] = self._receive()
        size = self.metadata["actions"]["shape"][1]
        self._range = None if action_range is None else validate_action_range(action_range, size)

    def reset(self, seed: int | None = None) -> None:
        """Start an episode. seed: of the sampling noise; None: random."""
        self._ask({"reset": seed})

    def act(self, obs: Mapping[str, Any]) -> np.ndarray:
        """The next action (A,), physical, float32. obs: the current observation; pass each step of the episode once."""
        return self._actions({"obs": _plain(obs)}, "action")

    def chunk(self, obs: Mapping[str, Any]) -> np.ndarray:
        """The whole chunk (H, A) that follows `obs`, physical, float32."""
        return self._actions({"obs": _plain(obs), "ask": "chunk"}, "actions")

    def observe(self, obs: Mapping[str, Any]) -> None:
        """Observe a step without acting."""
        self._ask({"obs": _plain(obs), "ask": "nothing"})

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _actions(self, message: dict[str, Any], key: str) -> np.ndarray:
        actions: np.ndarray = self._ask(message)[key]
        return actions if self._range is None else np.clip(actions, *self._range)

    def _ask(self, message: dict[str, Any]) -> Any:
        try:
            self._socket.send(pack(message))
        except (OSError, WebSocketException) as error:
            raise ConnectionError(f"{self._url}: the server went away: {error}") from None
        return self._receive()

    def _receive(self) -> Any:
        try:
            received = self._socket.recv(timeout=self._timeout)
        except (OSError, WebSocketException) as error:  # also TimeoutError
            raise ConnectionError(f"{self._url}: no answer: {error}") from None
        if isinstance(received, str):
            raise UserError(str(from_json(received).get("error")))
        return unpack(received)


def _plain(obs: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as arrays, which are much smaller on the wire. Other values are sent unchanged; the server refuses them."""
    if not isinstance(obs, Mapping):
        raise UserError(f"observations: expected name -> array, got {type(obs).__name__}")
    return {str(name): _as_array(value) for name, value in obs.items()}


def _as_array(value: Any) -> Any:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return value
    return array if array.dtype.kind in "buif" else value


def _refusal(error: InvalidStatus) -> str:
    body = error.response.body or b""
    if body.startswith(b"{"):
        return str(from_json(bytes(body)).get("error"))
    return f"refused with status {error.response.status_code}"
