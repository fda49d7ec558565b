"""The ASGI applications: the API on the network, and the same with more on the owner's socket."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polydev import __version__
from polydev.api import (
    chat,
    connections,
    health,
    logins,
    messages,
    model_list,
    native,
    owner,
    problems,
)
from polydev.api.callers import KeyFirst
from polydev.api.dependencies import Services
from polydev.errors import PolydevError, PromptTooLarge

_MODULES = (chat, messages, model_list, native, connections, health)
# The first parts of the API's paths.
API_PATHS = frozenset(
    str(getattr(route, "path", "")).split("/")[1]
    for module in _MODULES
    for route in module.router.routes
) | {"openapi.json"}


def network_app(services: Services, body_limit_bytes: int) -> ASGIApp:
    """What listens on the network: everything needs a key, but for health and metrics."""
    app = _app(services)
    return BodyLimit(app, body_limit_bytes)


def owners_app(
    services: Services, body_limit_bytes: int, dashboard_url: str | None = None
) -> ASGIApp:
    """What listens on the owner's socket: the same without keys, and `/owner/…`.

    dashboard_url: where browsers find the gateway; None when it does not listen on the network.
    """
    app = _app(services)
    app.state.is_owners_socket = True
    app.state.dashboard_url = dashboard_url
    app.include_router(owner.router)
    app.include_router(logins.router)
    return BodyLimit(app, body_limit_bytes)


def _app(services: Services) -> FastAPI:
    app = FastAPI(
        title="polydev",
        version=__version__,
        description="The AI subscriptions you already pay for, as an API of your own.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.services = services
    app.state.is_owners_socket = False
    for module in _MODULES:
        app.include_router(module.router)
    app.add_middleware(KeyFirst)
    app.add_exception_handler(PolydevError, problems.on_polydev_error)
    app.add_exception_handler(RequestValidationError, problems.on_validation_error)
    app.add_exception_handler(HTTPException, problems.on_http_error)
    app.add_exception_handler(Exception, problems.on_unexpected)
    return app


class BodyLimit:
    """Refuses bodies over the limit with 413 without keeping them."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self.app = app
        self._limit = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message: dict[str, Any] = dict(await receive())
            read += len(message.get("body", b""))
            if read > self._limit:
                raise PromptTooLarge(
                    f"The request is larger than {self._limit} bytes.",
                    remedy="Send less, or raise POLYDEV_SERVER__BODY_LIMIT_BYTES.",
                )
            return message

        await self.app(scope, counted, send)
