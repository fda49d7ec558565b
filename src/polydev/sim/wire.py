"""What the stand-ins of all providers share: reading a request, streaming at a pace, being late.

A stream that is to be cut off ends without its last chunk, which makes the server close the
connection. A client that goes away ends the stream at once and is counted as `abandoned`.
"""

import asyncio
import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from polydev.sim.knobs import Knobs
from polydev.sim.state import Account, World


class Fault(StrEnum):
    """What an account's knobs make of a model request instead of an answer."""

    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    LIMIT_REACHED = "limit_reached"


def fault(world: World, account: Account) -> Fault | None:
    knobs = world.knobs(account)
    if knobs.server_error is not None:
        return Fault.SERVER_ERROR
    if knobs.overloaded:
        return Fault.OVERLOADED
    if knobs.rate_limited:
        return Fault.RATE_LIMITED
    if world.exhausted(account) is not None:
        return Fault.LIMIT_REACHED
    return None


def bearer(connection: HTTPConnection) -> str:
    """The bearer token of a request; empty when it has none."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


async def fields(request: Request) -> dict[str, Any]:
    """The body as an object, from JSON or from a form; empty when it is neither."""
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(body.decode("utf-8", "replace")))
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def delay(seconds: float) -> None:
    """Being slow is what a knob asks for here: this is no waiting for something."""
    if seconds > 0:
        await asyncio.sleep(seconds)


def server_event(data: Mapping[str, Any], *, named: bool = True) -> bytes:
    """One server-sent event, named by its `type` unless told otherwise."""
    line = (
        b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
    return b"event: " + str(data["type"]).encode() + b"\n" + line if named else line


def unsigned_jwt(claims: Mapping[str, Any]) -> str:
    """A JSON web token of the usual shape whose signature says what it is: made up."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    header = part(b'{"alg":"RS256","typ":"JWT","kid":"simulator"}')
    return f"{header}.{part(json.dumps(claims).encode())}.{part(b'made-up-signature')}"


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A piece of a stream. Text pieces are what the pace and the cut count."""

    content: bytes
    is_text: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An error answer in the vendor's form, before it is known which transport carries it."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


class EventStream(Response):
    """Frames as server-sent events, at an account's pace."""

    def __init__(
        self,
        frames: Sequence[Frame],
        *,
        knobs: Knobs,
        account: Account,
        headers: Mapping[str, str],
        content_type: str = "text/event-stream; charset=utf-8",
    ) -> None:
        super().__init__(headers={**headers, "content-type": content_type})
        del self.headers["content-length"]
        self._frames = frames
        self._knobs = knobs
        self._account = account

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        gone = asyncio.create_task(_gone(receive))
        try:
            for frame in kept(self._frames, self._knobs):
                if frame.is_text and self._knobs.pace_seconds:
                    await asyncio.wait({gone}, timeout=self._knobs.pace_seconds)
                if gone.done():
                    self._account.counters["abandoned"] += 1
                    return
                await send({"type": "http.response.body", "body": frame.content, "more_body": True})
            if not is_cut(self._frames, self._knobs):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


def kept(frames: Sequence[Frame], knobs: Knobs) -> Iterable[Frame]:
    """The frames that are sent: all, or those before the cut."""
    texts = 0
    for frame in frames:
        if frame.is_text:
            if knobs.cut_after_chunks is not None and texts >= knobs.cut_after_chunks:
                return
            texts += 1
        yield frame


def is_cut(frames: Sequence[Frame], knobs: Knobs) -> bool:
    texts = sum(1 for frame in frames if frame.is_text)
    return knobs.cut_after_chunks is not None and texts > knobs.cut_after_chunks


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
