"""Who asks: told from the headers alone, before a byte of the body is read."""

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from polydev.api import problems
from polydev.api.dependencies import services
from polydev.core.accounts import Caller
from polydev.errors import PolydevError

_PROTECTED = "/v1/"


class KeyFirst:
    """Refuses what has no good key; the rest finds its caller in `state.caller`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"].startswith(_PROTECTED):
            connection = HTTPConnection(scope)
            try:
                connection.state.caller = await identify(connection)
            except PolydevError as error:
                response = problems.response_to(error, connection)
                if scope["type"] == "websocket":
                    await WebSocket(scope, receive, send).send_denial_response(response)
                else:
                    await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def identify(connection: HTTPConnection) -> Caller:
    """Who sent the request. Raises Unauthenticated, Forbidden, TooManyRequests, NotFound.

    On the owner's own socket there is no key: whoever may open it owns this installation, and
    `polydev-user` names the person they act for.
    """
    found = services(connection)
    if connection.app.state.is_owners_socket:
        name = connection.headers.get("polydev-user")
        return Caller(user=await found.accounts.user_named(name), key=None)
    try:
        known = await found.accounts.caller(presented_key(connection))
    except PolydevError as error:
        found.metrics.refused.labels(code=error.code).inc()
        raise
    assert known.key is not None
    found.quotas.count_request(known.key)
    return known


def presented_key(connection: HTTPConnection) -> str:
    """The key in `Authorization: Bearer` or `x-api-key`; empty when there is none."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return connection.headers.get("x-api-key", "").strip()
