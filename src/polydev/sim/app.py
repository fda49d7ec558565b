"""Dispatches by Host to each provider's routes, and records whatever was asked.

Bodies are read whole (up to a bound, else 413), decompressed and recorded before a route sees
them. A host that no provider claims (`localhost`) gets the routes of all. An unknown path is
answered 404 with JSON, and recorded like the rest. `/_sim/` on any host is the control API.
"""

import json
import zlib
from typing import Any

import zstandard
from starlette.responses import JSONResponse
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polydev.sim import anthropic, chatgpt, control, google, openai_api
from polydev.sim.state import Vendor, World

VENDORS: tuple[Vendor, ...] = (
    anthropic.VENDOR,
    chatgpt.VENDOR,
    google.VENDOR,
    openai_api.VENDOR,
)
LARGEST_BODY_BYTES = 160 * 2**20
CONTROL_PREFIX = "/_sim/"


class BodyRefused(Exception):
    """A body that is not read. status: 413 too large, 400 not what its encoding says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def create_app(world: World) -> ASGIApp:
    """The simulator as one ASGI application."""
    return _App(world)


class _App:
    def __init__(self, world: World) -> None:
        self._world = world
        self._by_host: dict[str, Router] = {}
        everything = []
        for vendor in world.vendors.values():
            routes = vendor.routes(world)
            everything += routes
            router = Router(routes, default=_not_found, redirect_slashes=False)
            self._by_host |= dict.fromkeys(vendor.hosts, router)
        self._any = Router(everything, default=_not_found, redirect_slashes=False)
        self._control = Router(control.routes(world), default=_not_found, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("The simulator has no lifespan; serve it with lifespan off.")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        host = _host(dict(headers).get("host", ""))
        if scope["path"].startswith(CONTROL_PREFIX):
            await self._control(scope, receive, send)
            return
        router = self._by_host.get(host, self._any)
        query = scope["query_string"].decode("latin-1")
        if scope["type"] == "websocket":
            self._world.records.add(
                method="GET", host=host, path=scope["path"], query=query, headers=headers
            )
            await router(scope, receive, send)
            return
        try:
            wire = await _read(receive)
            body = _decompressed(wire, dict(headers).get("content-encoding", ""))
        except BodyRefused as refused:
            response = JSONResponse({"error": {"message": str(refused)}}, refused.status)
            await response(scope, receive, send)
            return
        self._world.records.add(
            method=scope["method"],
            host=host,
            path=scope["path"],
            query=query,
            headers=headers,
            body=body,
            wire_bytes=len(wire),
        )
        await router(scope, _replay(body, receive), send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4404, "reason": "no such path"})
        return
    error = {"type": "not_found_error", "message": f"The simulator has nothing at {scope['path']}"}
    await JSONResponse({"type": "error", "error": error}, 404)(scope, receive, send)


def _host(header: str) -> str:
    return header.rsplit(":", 1)[0].lower() if ":" in header else header.lower()


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyRefused(400, "The client went away before its body was complete.")
        size += len(message.get("body", b""))
        if size > LARGEST_BODY_BYTES:
            raise BodyRefused(413, "The body is larger than the simulator reads.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _decompressed(body: bytes, encoding: str) -> bytes:
    try:
        match encoding.strip().lower():
            case "" | "identity":
                return body
            case "zstd":
                with zstandard.ZstdDecompressor().stream_reader(body) as reader:
                    plain: bytes = reader.read(LARGEST_BODY_BYTES + 1)
            case "gzip" | "deflate":
                # 32 lets zlib recognise gzip and zlib headers by itself.
                plain = zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(
                    body, LARGEST_BODY_BYTES + 1
                )
            case other:
                raise BodyRefused(400, f"The simulator cannot read content-encoding {other!r}.")
    except (zstandard.ZstdError, zlib.error) as error:
        raise BodyRefused(
            400, f"The body is not what its content-encoding says: {error}"
        ) from error
    if len(plain) > LARGEST_BODY_BYTES:
        raise BodyRefused(413, "The body is larger than the simulator reads.")
    return plain


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


def decode_json(text: str) -> Any:
    """JSON or None; for frames of a WebSocket."""
    try:
        return json.loads(text)
    except ValueError:
        return None
