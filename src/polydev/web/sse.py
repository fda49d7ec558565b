"""Server-sent events of the dashboard: what changed, and a run's events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse

from polydev.errors import Busy, NotSignedIn
from polydev.events import Recorded, event_to_dict
from polydev.web.dependencies import Visit, VisitDependency, WebServices, WebServicesDependency

router = APIRouter()

# Proxies end connections on which nothing comes, and only a write tells that a reader is gone.
_BEAT_SECONDS = 15.0
# How long a run's events still come after a sign-out.
_LOOK_SECONDS = 1.0


@router.get("/live")
async def live(visit: VisitDependency, services: WebServicesDependency) -> StreamingResponse:
    """The topics of what changed, as it does."""
    return _stream(_notices(visit, services))


@router.get("/runs/{run_id}/events")
async def run_events(
    run_id: str,
    visit: VisitDependency,
    services: WebServicesDependency,
    last_event_id: Annotated[str | None, Header()] = None,
    after: Annotated[int, Query(ge=0)] = 0,
) -> StreamingResponse:
    """A run's events, from the beginning or after `Last-Event-ID`."""
    if last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 19:
        after = int(last_event_id)
    events = await services.runs.events(visit.caller, run_id, after)
    return _stream(_events(visit, services, events))


async def _notices(visit: Visit, services: WebServices) -> AsyncIterator[bytes]:
    try:
        with services.notices.listen(visit.user.id) as listener:
            yield b"retry: 1000\n\n"
            while True:
                try:
                    async with asyncio.timeout(_BEAT_SECONDS):
                        topics = await listener.changed()
                except TimeoutError:
                    yield b":\n\n"
                    continue
                if topics is None:
                    return
                await services.sign_ins.who(visit.token)
                for topic in topics:
                    yield f"event: changed\ndata: {topic.value}\n\n".encode()
    except NotSignedIn:
        yield b"event: signed-out\ndata:\n\n"
    except Busy:
        yield b"retry: 60000\n\n"


async def _events(
    visit: Visit, services: WebServices, events: AsyncIterator[Recorded]
) -> AsyncIterator[bytes]:
    """Ends without a word once its reader is signed out: the browser asks again, and is refused."""
    looked_at = asyncio.get_running_loop().time()
    async for recorded in events:
        now = asyncio.get_running_loop().time()
        if now - looked_at >= _LOOK_SECONDS:
            looked_at = now
            try:
                await services.sign_ins.who(visit.token)
            except NotSignedIn:
                return
        fields = {
            "number": recorded.number,
            "at": recorded.at.isoformat(),
            **event_to_dict(recorded.event),
        }
        data = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        yield f"id: {recorded.number}\ndata: {data}\n\n".encode()


def _stream(lines: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
