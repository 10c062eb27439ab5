"""A policy on a server, with the methods of a local one.

    with RemotePolicy("http://127.0.0.1:8000") as policy:
        policy.reset(seed=0)
        action = policy.act(obs)

Needs numpy, msgpack and websockets, no torch. Letters: H chunk, A action dim.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from raybc.inference.observations import ActionRange, named_observation, validate_action_range
from raybc.serve.wire import from_json, pack, unpack
from raybc.types import UserError


class RemotePolicy:
    """A session of a server, which keeps history, chunk and noise. `metadata` describes the policy.

    Raises `UserError` if the server refuses a message, and `ConnectionError` if it cannot be reached or does not answer
    in time. An answer belongs to the message that it answers: messages carry numbers, and a connection on
    which an answer is missing is closed, so a late action is never returned for a newer observation. The observations
    of the episode are then lost; `reset` connects again and starts a new one. Threads may share a policy: one message
    is answered before the next one is sent.
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
        self._where = f"{scheme.replace('http', 'ws')}://{place}/ws"
        self._url, self._timeout = url, timeout
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._lost = ""
        """Why the connection was closed by this client; empty while it is open."""
        self._closed = False
        self.metadata: dict[str, Any] = self._connect()
        size = self.metadata["actions"]["shape"][1]
        self._range = None if action_range is None else validate_action_range(action_range, size)

    def reset(self, seed: int | None = None, instruction: str | None = None) -> None:
        """Start an episode. seed: of the sampling noise; None: random. instruction: what the robot should do, in words,
        for a policy that reads instructions; None: that of the episode before.

        Connects again if the connection was lost. Raises `UserError` if another policy is served by then.
        """
        with self._lock:
            if self._lost and not self._closed:
                metadata = self._connect()
                if metadata != self.metadata:
                    self._lose("another policy is served there by now")
                    raise UserError(f"{self._url}: another policy is served there by now; make a new RemotePolicy")
                self._lost = ""
        self._ask({"reset": seed} | ({} if instruction is None else {"instruction": instruction}))

    def act(self, obs: Mapping[str, Any] | np.ndarray) -> np.ndarray:
        """The next action (A,), physical, float32. obs: the current observation; pass each step of the episode once."""
        return self._actions({"obs": self._plain(obs)}, "action")

    def chunk(self, obs: Mapping[str, Any] | np.ndarray) -> np.ndarray:
        """The whole chunk (H, A) that follows `obs`, physical, float32."""
        return self._actions({"obs": self._plain(obs), "ask": "chunk"}, "actions")

    def observe(self, obs: Mapping[str, Any] | np.ndarray) -> None:
        """Observe a step without acting."""
        self._ask({"obs": self._plain(obs), "ask": "nothing"})

    def close(self) -> None:
        self._closed = True
        self._socket.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _plain(self, obs: Any) -> dict[str, Any]:
        """Lists as arrays, which are much smaller on the wire. Other values are sent unchanged; the server refuses
        them."""
        named = named_observation(obs, list(self.metadata.get("observations", ())))
        return {str(name): _as_array(value) for name, value in named.items()}

    def _actions(self, message: dict[str, Any], key: str) -> np.ndarray:
        actions: np.ndarray = self._ask(message)[key]
        return actions if self._range is None else np.clip(actions, *self._range)

    def _connect(self) -> dict[str, Any]:
        """Open the connection; returns the metadata, which the server sends first."""
        try:
            self._socket = connect(
                self._where, additional_headers=self._headers, compression=None, max_size=2**26,
                open_timeout=self._timeout, proxy=None,
            )  # fmt: skip
        except InvalidStatus as error:
            raise UserError(f"{self._url}: {_refusal(error)}") from None
        except (OSError, WebSocketException) as error:
            raise ConnectionError(f"{self._url}: no policy is served there: {error}") from None
        return dict(self._receive(None))

    def _ask(self, message: dict[str, Any]) -> Any:
        with self._lock:
            if self._closed:
                raise ConnectionError(f"{self._url}: this connection was closed; make a new RemotePolicy")
            if self._lost:
                raise ConnectionError(
                    f"{self._url}: {self._lost}, so the connection was closed; `reset` connects again and starts a new "
                    "episode"
                )
            number = next(self._numbers)
            packed = pack({**message, "id": number})
            try:
                self._socket.send(packed)
            except (OSError, WebSocketException) as error:
                self._lose("the server went away")
                raise ConnectionError(f"{self._url}: the server went away: {error}") from None
            return self._receive(number)

    def _receive(self, number: int | None) -> Any:
        """The answer to message `number`. Whatever goes wrong closes the connection: the answer may still come."""
        try:
            received = self._socket.recv(timeout=self._timeout)
        except TimeoutError:
            self._lose(f"an answer did not come within {self._timeout:g} s")
            raise ConnectionError(f"{self._url}: no answer within {self._timeout:g} s") from None
        except (OSError, WebSocketException) as error:
            self._lose("the server went away")
            raise ConnectionError(f"{self._url}: no answer: {error}") from None
        except BaseException:  # Ctrl-C
            self._lose("waiting for an answer was interrupted")
            raise
        answer = from_json(received) if isinstance(received, str) else unpack(received)
        answered = answer.get("id") if isinstance(answer, dict) else None
        if number is not None and answered not in (None, number):  # servers before 0.2 repeat no number
            self._lose("an answer to another message came")
            raise ConnectionError(f"{self._url}: expected the answer to message {number}, got that to {answered!r}")
        if isinstance(received, str):
            raise UserError(str(answer.get("error")))
        return answer

    def _lose(self, reason: str) -> None:
        self._lost = reason
        # In the background: closing waits for a server that may not answer.
        threading.Thread(target=self._socket.close, daemon=True).start()


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
