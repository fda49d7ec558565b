"""Who may look, and what may be changed: the rules for everything that works by cookie.

`Shield` stands before every answer: it refuses foreign host names, so that no other site's name can
be led here, and says to browsers what a page of ours may do. `guarded` stands before every page but
the sign-in: a good cookie, and for a change a token that only our own pages hold.
"""

import hmac
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from polydev.core.listening import Address, plain_name
from polydev.core.sign_ins import SIGN_IN_DAYS
from polydev.errors import Forbidden, ForeignHost, InvalidRequest, PromptTooLarge
from polydev.secret import Secret
from polydev.web import problems
from polydev.web.dependencies import Visit, services

CSRF_FIELD = "csrf"
CSRF_HEADER = "x-csrf-token"
_FORM_BYTES = 8 * 2**20
_READS = frozenset({"GET", "HEAD"})
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Shield:
    def __init__(self, app: ASGIApp, address: Address) -> None:
        self.app = app
        self._address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def shielded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        connection = HTTPConnection(scope)
        host = connection.headers.get("host", "")
        if plain_name(host) not in self._address.names:
            refused = ForeignHost(
                f"This is polydev, and not {host[:100]!r}.",
                remedy="If the name is yours, add it to POLYDEV_SERVER__HOSTS.",
            )
            response = problems.as_text(refused)
            if scope["type"] == "websocket":
                await WebSocket(scope, receive, shielded).send_denial_response(response)
            else:
                await response(scope, receive, shielded)
            return
        await self.app(scope, receive, shielded)


async def guarded(request: Request) -> None:
    """Finds out who looks, and refuses changes that our own pages did not ask for.

    Raises NotSignedIn, Forbidden, PromptTooLarge, InvalidRequest.
    """
    found = services(request)
    token = Secret(request.cookies.get(cookie_name(found.address), ""))
    user = await found.sign_ins.who(token)
    visit = Visit(user=user, token=token)
    request.state.visit = visit
    if request.method in _READS:
        check_origin(request, found.address)
        return
    check_origin(request, found.address, needed=True)
    request.state.form = await _form(request)
    shown = request.headers.get(CSRF_HEADER) or request.state.form.get(CSRF_FIELD, "")
    if not hmac.compare_digest(shown.encode(), visit.csrf.encode()):
        raise Forbidden(
            "The request did not come from a page of this sign-in.",
            remedy="Load the page again, and repeat what you did.",
            reason="csrf",
        )


async def guarded_socket(socket: WebSocket) -> Visit:
    """Who opened it, from a page of ours. Raises NotSignedIn, Forbidden.

    A cookie goes with every site's request for a WebSocket, and no other rule keeps a foreign page
    from reading what comes: so the origin must be said, and be ours.
    """
    found = services(socket)
    scheme = "https" if found.address.secure else "http"
    ours = f"{scheme}://{socket.headers.get('host', '')}"
    if not hmac.compare_digest(socket.headers.get("origin", "").encode(), ours.encode()):
        raise Forbidden(
            "The connection was asked for by another site.",
            remedy="Use the dashboard's own pages.",
            reason="foreign_origin",
        )
    token = Secret(socket.cookies.get(cookie_name(found.address), ""))
    return Visit(user=await found.sign_ins.who(token), token=token)


def check_origin(request: Request, address: Address, *, needed: bool = False) -> None:
    """That another site's page did not send this. needed: something must say so.

    Browsers say it themselves in `Sec-Fetch-Site`, which no page can set, and in `Origin`. Pages
    that send no referrer have the origin `null` in a plain form's request. A person who follows a
    link from elsewhere only reads, and their cookie does not come along. Raises Forbidden.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    scheme = "https" if address.secure else "http"
    ours = f"{scheme}://{request.headers.get('host', '')}"
    is_page = request.headers.get("sec-fetch-mode") == "navigate" and not needed
    good = (site in (None, "same-origin") or is_page or (site == "none" and not needed)) and (
        origin in (None, ours) or (origin == "null" and site == "same-origin")
    )
    if not good or (needed and site is None and origin is None):
        raise Forbidden(
            "The request came from another site.",
            remedy="Use the dashboard's own pages.",
            reason="foreign_origin",
        )


def cookie_name(address: Address) -> str:
    """Under TLS the browser itself sees to it that no other host sets it."""
    return "__Host-polydev" if address.secure else f"polydev-{address.port}"


def set_cookie(response: Response, address: Address, token: Secret[str] | None) -> None:
    """None takes the cookie away."""
    response.set_cookie(
        cookie_name(address),
        token.reveal() if token else "",
        max_age=SIGN_IN_DAYS * 24 * 3600 if token else 0,
        path="/",
        httponly=True,
        samesite="strict",
        secure=address.secure,
    )


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_BYTES:
            raise PromptTooLarge(f"The form is larger than {_FORM_BYTES} bytes.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if body and kind != "application/x-www-form-urlencoded":
        raise InvalidRequest("A form's fields are sent urlencoded.")
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise InvalidRequest("The form cannot be read.") from error
    return dict(fields)
