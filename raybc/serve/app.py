"""The server's routes. Invalid requests are answered with one line, {"error": ...}, and status 4xx.

    GET /health, GET /metadata
    POST /act    {"obs": OBS or [OBS, ...], "seed": N}  ->  {"actions": (H, A)}    stateless
    WS /ws       {"obs": OBS, "id": N}  ->  {"action": (A,), "id": N}    an episode; the server keeps history and chunk

A policy that reads instructions finds them as "instruction": TEXT beside "obs", or beside "reset" for a whole episode.

OBS is name -> low-dimensional observation or image, as in /metadata. Letters: H chunk, A action dim.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from raybc.inference.observations import validate_observation
from raybc.inference.session import Session
from raybc.serve.batch import Batcher
from raybc.serve.wire import JSON, MSGPACK, from_json, pack, to_json, unpack
from raybc.types import SampleSetting, UserError

#: Seconds within which a request's body must arrive.
BODY_TIMEOUT = 30.0


def make_app(
    batcher: Batcher, setting: SampleSetting, described: Mapping[str, Any], token: str, max_bytes: int
) -> Starlette:
    """The server as an ASGI application.

    Args:
        batcher: the network.
        setting: sample setting of all sessions.
        described: the answer to /metadata.
        token: clients must send it; empty: no token, and only programs on this machine are admitted.
        max_bytes: maximum size of a request body (uvicorn's `ws_max_size` limits WebSocket messages).
    """
    server = _Server(batcher, setting, described, max_bytes)
    return Starlette(
        routes=[
            Route("/health", server.health),
            Route("/metadata", server.metadata),
            Route("/act", server.act, methods=["POST"]),
            WebSocketRoute("/ws", server.talk),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={HTTPException: _refusal},
    )


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer({"error": error.detail}, status=error.status_code)


def _answer(value: Any, kind: str = JSON, status: int = 200) -> Response:
    return Response(pack(value) if kind == MSGPACK else to_json(value), status, media_type=kind)


class Guard:
    """Middleware that admits requests with the token.

    Without a token the server listens on this machine only. It then refuses requests that a browser sends for a page of
    another site, which have an Origin header or another host name.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refuses(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refuses(self, headers: Headers) -> Response | None:
        if self._token:
            _, _, shown = headers.get("authorization", "").partition(" ")  # Bearer, or openpi's Api-Key
            if hmac.compare_digest(shown.encode(), self._token):
                return None
            return _answer({"error": "unauthorised: expected the header Authorization: Bearer TOKEN"}, status=401)
        if "origin" in headers or not is_loopback(_host(headers.get("host", ""))):
            return _answer(
                {"error": "forbidden: a server without a token serves programs on its own machine only"}, status=403
            )
        return None


def _host(name: str) -> str:
    """The host in a Host header, without the port."""
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server:
    def __init__(self, batcher: Batcher, setting: SampleSetting, described: Mapping[str, Any], max_bytes: int) -> None:
        self._batcher, self._setting, self._described, self._max_bytes = batcher, setting, described, max_bytes
        self._sessions = 0

    async def health(self, request: Request) -> Response:
        counts = {"asked": self._batcher.asked, "batches": self._batcher.batches, "sessions": self._sessions}
        return _answer({"status": "ok", **counts})

    async def metadata(self, request: Request) -> Response:
        return _answer(self._described)

    async def act(self, request: Request) -> Response:
        kind = request.headers.get("content-type", JSON).partition(";")[0].strip()
        if kind not in (JSON, MSGPACK):
            raise HTTPException(415, f"content-type: expected {JSON} or {MSGPACK}, got {kind!r}")
        body = await self._body(request)
        try:
            message = unpack(body) if kind == MSGPACK else from_json(body)
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        try:
            episode = self._episode_of(message)
            await episode.instruct(message)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        chunk_HA = await episode.chunk()
        if not np.isfinite(chunk_HA).all():
            raise HTTPException(500, "the policy gave nan or inf")
        return _answer({"actions": chunk_HA}, kind)

    def _episode_of(self, message: Any) -> Episode:
        if not isinstance(message, Mapping) or "obs" not in message or message.keys() - {"obs", "seed", "instruction"}:
            raise UserError(
                'message: expected {"obs": observations} and, if wanted, "seed" and "instruction"; see /metadata'
            )
        episode = Episode(self._batcher, self._setting, _seed(message.get("seed")))
        steps = message["obs"] if isinstance(message["obs"], list) else [message["obs"]]
        if not 1 <= len(steps) <= self._batcher.bundle.config.obs_steps:
            obs_steps = self._batcher.bundle.config.obs_steps
            raise UserError(f"obs: expected one observation or a list of 1..{obs_steps}, got {len(steps)}")
        for obs in steps:
            episode.observe(obs)
        return episode

    async def _body(self, request: Request) -> bytes:
        pieces, size = [], 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for piece in request.stream():
                    size += len(piece)
                    if size > self._max_bytes:
                        raise HTTPException(413, f"body: expected at most {self._max_bytes} bytes")
                    pieces.append(piece)
        except TimeoutError:
            raise HTTPException(408, f"body: expected within {BODY_TIMEOUT:.0f} s") from None
        return b"".join(pieces)

    async def talk(self, socket: WebSocket) -> None:
        """Serve a WebSocket: one episode after another.

        The first message to the client is the answer to /metadata, in msgpack. Each message from the client gets one
        answer in the same format, and errors are text. An answer repeats the "id" of its message, a number.
        """
        await socket.accept()
        self._sessions += 1
        episode = Episode(self._batcher, self._setting, None)
        try:
            await socket.send_bytes(pack(self._described))
            while True:
                received = await socket.receive()
                if received["type"] == "websocket.disconnect":
                    return
                number: dict[str, int] = {}
                try:
                    text = received.get("text")
                    message = unpack(received["bytes"]) if text is None else from_json(text)
                    number = _number(message)
                    answer, episode = await self._reply(episode, message)
                except UserError as error:
                    await socket.send_text(to_json({"error": str(error)} | number))
                    continue
                if text is None:
                    await socket.send_bytes(pack(answer | number))
                else:
                    await socket.send_text(to_json(answer | number))
        except WebSocketDisconnect:
            return
        finally:
            self._sessions -= 1

    async def _reply(self, episode: Episode, message: Any) -> tuple[dict[str, Any], Episode]:
        if not isinstance(message, Mapping):
            raise UserError(f"message: expected a map, got {type(message).__name__}")
        if "reset" in message:
            started = Episode(self._batcher, self._setting, _seed(message["reset"]), episode.instruction)
            if "instruction" in message:
                await started.instruct(message)
            return {"reset": True}, started
        if not isinstance(message.get("obs"), Mapping):  # openpi's clients send bare observations and expect chunks
            if self._batcher.bundle.instructions is not None:  # which they call prompts
                await episode.instruct(message, "prompt")
            episode.observe(message)
            return {"actions": _finite(await episode.chunk())}, episode
        ask = message.get("ask", "action")
        if ask not in ("action", "chunk", "nothing"):
            raise UserError(f"ask: expected action, chunk or nothing, got {ask!r}")
        await episode.instruct(message)
        episode.observe(message["obs"])
        if ask == "nothing":
            return {"observed": True}, episode
        if ask == "chunk":
            return {"actions": _finite(await episode.chunk())}, episode
        return {"action": _finite(await episode.act())}, episode


def _number(message: Any) -> dict[str, int]:
    """The "id" of a message, which its answer repeats; {} for bare observations, one of which may have that name."""
    if not isinstance(message, Mapping) or not ("reset" in message or isinstance(message.get("obs"), Mapping)):
        return {}
    value = message.get("id")
    if value is not None and not (type(value) is int and 0 <= value < 2**63):
        raise UserError(f"id: expected a whole number of at least 0, got {value!r}")
    return {} if value is None else {"id": value}


def _finite(actions: np.ndarray) -> np.ndarray:
    if not np.isfinite(actions).all():
        raise UserError("the policy gave nan or inf for these observations")
    return actions


def _seed(value: Any) -> int | None:
    if value is not None and not (type(value) is int and 0 <= value < 2**63):
        raise UserError(f"seed: expected a whole number of at least 0, or null, got {value!r}")
    return value


class Episode:
    """Like `raybc.inference.policy.Policy`, but with a network that all connections share."""

    def __init__(self, batcher: Batcher, setting: SampleSetting, seed: int | None, instruction: str = "") -> None:
        self._batcher = batcher
        self._session = Session(batcher.bundle, setting, seed)
        self._session.instruction = instruction
        self._due: deque[np.ndarray] = deque()

    @property
    def instruction(self) -> str:
        """The current instruction; "" without."""
        return self._session.instruction

    async def instruct(self, message: Mapping[str, Any], key: str = "instruction") -> None:
        """Read the instruction of a message, which stays until there is another one.

        Raises `UserError` where the policy needs one and there is none, and for one that it cannot read. Requests of
        others share a batch, so nothing may fail later.
        """
        bundle, text = self._batcher.bundle, message.get(key)
        if text is None:
            if not self.instruction:
                bundle.embed(None)
            return
        if not isinstance(text, str):
            raise UserError(f"{key}: expected a text, got {type(text).__name__}")
        if text != self.instruction:
            await asyncio.to_thread(bundle.check_instruction, text)  # an encoder may take seconds to load
            self._session.instruction = text

    def observe(self, obs: Any) -> None:
        bundle = self._batcher.bundle
        self._session.observe(validate_observation(bundle.obs_sizes, bundle.images, obs))

    async def act(self) -> np.ndarray:
        """The next action, (A,), physical, float32."""
        if not self._due:
            self._due.extend(self._session.plan(await self.chunk()))
        return self._due.popleft()

    async def chunk(self) -> np.ndarray:
        """The whole next chunk, (H, A), physical, float32."""
        return await self._batcher.predict(self._session.request())
