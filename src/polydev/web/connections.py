"""A person's connections: how they are, what is left of their windows, checking and ending them."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from polydev.models.accounts import Connection
from polydev.models.windows import Window
from polydev.web.dependencies import (
    Visit,
    VisitDependency,
    WebServices,
    WebServicesDependency,
)
from polydev.web.pages import done, page, provider_titles, title_of

router = APIRouter()
_BACK = "/connections"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    connection: Connection
    windows: tuple[Window, ...]


@router.get("/connections")
async def connections(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "connections.html", **await _shown(visit, services))


@router.get("/connections/list")
async def connection_list(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "fragments/connections.html", **await _shown(visit, services))


@router.post("/connections/{connection_id}/check")
async def check(
    connection_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    connection = await services.connections.own(visit.user, connection_id)
    _, good, message = await services.connecting.check(connection.id)
    words = f"{title_of(connection.provider)} was asked. {message}" if good else message
    return done(request, words, _BACK, good=good)


@router.post("/connections/{connection_id}/disconnect")
async def disconnect(
    connection_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    connection = await services.connections.own(visit.user, connection_id)
    await services.connections.disconnect(connection.id)
    words = f"{title_of(connection.provider)} is disconnected, and its login is deleted here."
    return done(request, words, _BACK)


async def _shown(visit: Visit, services: WebServices) -> dict[str, Any]:
    return {
        "shown": [
            Shown(connection=connection, windows=await services.windows.of(connection.id))
            for connection in await services.connections.of_user(visit.user)
        ],
        "providers": provider_titles(),
    }
