"""The dashboard's ASGI application, before the API's on the same port."""

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from polydev.core.programs import HTMX as NPM_HTMX
from polydev.core.programs import NOVNC as NPM_NOVNC
from polydev.errors import NotFound, PolydevError
from polydev.web import connections, keys, logins, problems, runs, screen, sign_in, sse, try_it
from polydev.web.dependencies import WebServices
from polydev.web.guard import Shield, guarded
from polydev.web.static import HTMX, NOVNC, Static

# Whoever adds a page adds its router here, and it is guarded.
PAGES = (
    sign_in.pages,
    connections.router,
    logins.router,
    screen.router,
    runs.router,
    keys.router,
    try_it.router,
    sse.router,
)


def dashboard(services: WebServices, *, otherwise: ASGIApp, others: frozenset[str]) -> ASGIApp:
    """Answers for the dashboard's paths, and hands everything else on.

    otherwise: what answers on the same port; others: the first parts of its paths. Of what neither
    knows, a browser gets a page, and a program the other's words.
    """
    app = FastAPI(title="polydev dashboard", openapi_url=None)
    app.state.services = services
    programs = services.programs
    novnc = programs.browser_part(NPM_NOVNC).parent.parent
    app.state.static = Static(
        {HTMX: programs.browser_part(NPM_HTMX)},
        {f"{NOVNC}/{part}": novnc / part for part in ("core", "vendor")},
    )
    guarded_pages = APIRouter(dependencies=[Depends(guarded)])
    for router in PAGES:
        guarded_pages.include_router(router)
    guarded_pages.add_api_route("/{rest:path}", _missing)
    app.add_api_route("/static/{version}/{name:path}", _static, methods=["GET", "HEAD"])
    app.include_router(sign_in.public)
    app.include_router(screen.sockets)
    app.include_router(guarded_pages)
    app.add_exception_handler(PolydevError, problems.on_polydev_error)
    app.add_exception_handler(RequestValidationError, problems.on_validation_error)
    app.add_exception_handler(HTTPException, problems.on_http_error)
    app.add_exception_handler(Exception, problems.on_unexpected)
    app.state.paths = frozenset(
        path for router in (*PAGES, sign_in.public) for path in paths_of(router)
    )
    ours = {_first_part(path) for path in app.state.paths} | {"static"}
    shielded = Shield(app, services.address)

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and _first_part(scope["path"]) in ours:
            await shielded(scope, receive, send)
            return
        if scope["type"] == "http":
            first = _first_part(scope["path"])
            by_browser = "text/html" in HTTPConnection(scope).headers.get("accept", "")
            if first in ours or (by_browser and first not in others):
                await shielded(scope, receive, send)
                return
        await otherwise(scope, receive, send)

    return both


def paths_of(router: APIRouter) -> list[str]:
    return [str(getattr(route, "path", "")) for route in router.routes]


async def _static(version: str, name: str, request: Request) -> Response:
    static: Static = request.app.state.static
    return static.response(request, version, name)


async def _missing(rest: str) -> Response:
    """Behind the guard like every page, so that a stranger learns nothing of what there is."""
    raise NotFound("There is no such page.")


def _first_part(path: str) -> str:
    return path.split("/")[1] if path.startswith("/") else ""
