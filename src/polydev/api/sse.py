"""Server-sent events: the lines, and a response that tells when its reader went away."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse


def data(value: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def event(name: str, value: Mapping[str, Any], *, number: int | None = None) -> bytes:
    head = f"event: {name}\n" if number is None else f"id: {number}\nevent: {name}\n"
    return head.encode() + b"data: " + _json(value) + b"\n\n"


def response(lines: AsyncIterator[bytes], headers: Mapping[str, str]) -> StreamingResponse:
    """`lines` is closed when the client goes away; its `finally` is where a run is cancelled."""
    return StreamingResponse(
        lines,
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no", **headers},
    )


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
