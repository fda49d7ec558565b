"""A login's remote desktop: its screen over a WebSocket, and which of its windows is in front.

The desktop speaks VNC on a unix socket inside its sandbox and nowhere else. What passes here is
bytes; who may see them is decided before the socket is accepted: the cookie, our own origin, and
that the login is this person's and alive.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from starlette.responses import Response

from polydev.core.desktops import Streams
from polydev.errors import Conflict, InvalidRequest, NotSignedIn, PolydevError
from polydev.models.desktops import Window
from polydev.models.notices import Topic
from polydev.web import problems
from polydev.web.dependencies import (
    FormDependency,
    Visit,
    VisitDependency,
    WebServices,
    WebServicesDependency,
)
from polydev.web.dependencies import services as services_of
from polydev.web.guard import guarded_socket
from polydev.web.pages import done

router = APIRouter()
sockets = APIRouter()

_PIECE_BYTES = 64 * 1024
_NO_DESKTOP = 4409


@router.post("/logins/{login_id}/front")
async def bring_to_front(
    login_id: str,
    request: Request,
    visit: VisitDependency,
    form: FormDependency,
    services: WebServicesDependency,
) -> Response:
    """Raises the desktop's terminal or browser."""
    try:
        window = Window(form.get("window", ""))
    except ValueError:
        raise InvalidRequest("The desktop has a terminal and a browser.") from None
    await services.logins.raise_window(visit.user, login_id, window)
    if "hx-request" in request.headers:
        return Response(status_code=204)
    return done(request, "It is in front.", f"/logins/{login_id}")


@sockets.websocket("/logins/{login_id}/screen")
async def screen(socket: WebSocket, login_id: str) -> None:
    """VNC, as binary messages both ways, until either side or the login ends."""
    try:
        visit = await guarded_socket(socket)
        streams = await services_of(socket).logins.screen(visit.user, login_id)
    except Conflict:
        # Its owner's page may well ask while it is made or ends; the page asks again.
        await socket.accept()
        await socket.close(_NO_DESKTOP, "The desktop is not there.")
        return
    except PolydevError as error:
        await socket.send_denial_response(problems.as_text(error))
        return
    try:
        await socket.accept()
        await _relay(socket, streams, _signed_out(visit, services_of(socket)))
    finally:
        streams[1].close()


async def _signed_out(visit: Visit, services: WebServices) -> None:
    """Until this browser is signed in no longer."""
    with suppress(NotSignedIn), services.notices.listen(visit.user.id) as listener:
        while (topics := await listener.changed()) is not None:
            if Topic.SIGN_INS in topics:
                await services.sign_ins.who(visit.token)


async def _relay(socket: WebSocket, streams: Streams, over: Coroutine[None, None, None]) -> None:
    """Until one of the two leaves, or `over` is."""
    both = {
        asyncio.create_task(over),
        asyncio.create_task(_to_the_browser(socket, streams[0])),
        asyncio.create_task(_to_the_desktop(socket, streams[1])),
    }
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        await asyncio.wait(both)
    for task in both:
        if not task.cancelled():
            task.exception()  # one of the two has left; the other was told
    with suppress(RuntimeError):
        await socket.close()


async def _to_the_browser(socket: WebSocket, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_PIECE_BYTES):
        await socket.send_bytes(data)


async def _to_the_desktop(socket: WebSocket, writer: asyncio.StreamWriter) -> None:
    with suppress(WebSocketDisconnect, OSError):
        while True:
            writer.write(await socket.receive_bytes())
            await writer.drain()
