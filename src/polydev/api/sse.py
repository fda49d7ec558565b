"""Server-sent events: the lines, and a response that tells when it is over."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

# For the description of a route that answers with them.
DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {"description": "Successful Response", "content": {"text/event-stream": {}}}
}


def data(value: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def event(name: str, value: Mapping[str, Any], *, number: int | None = None) -> bytes:
    head = f"event: {name}\n" if number is None else f"id: {number}\nevent: {name}\n"
    return head.encode() + b"data: " + _json(value) + b"\n\n"


class EventStream(StreamingResponse):
    """on_end: called when all is sent or the reader went away, even before the first line."""

    def __init__(
        self,
        lines: AsyncIterator[bytes],
        headers: Mapping[str, str],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            lines,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no", **headers},
        )
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
