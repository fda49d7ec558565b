"""A person's API keys: made, shown once, revoked."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from polydev.errors import InvalidRequest
from polydev.web.dependencies import (
    FormDependency,
    Visit,
    VisitDependency,
    WebServices,
    WebServicesDependency,
)
from polydev.web.pages import done, page
from polydev.web.usage import curl_line

router = APIRouter()
_NAME_LENGTH = 64


@router.get("/keys")
async def keys(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "keys.html", created=None, **await _shown(visit, services))


@router.get("/keys/list")
async def key_list(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "fragments/keys.html", **await _shown(visit, services))


@router.post("/keys")
async def create(
    request: Request,
    visit: VisitDependency,
    form: FormDependency,
    services: WebServicesDependency,
) -> Response:
    """The one answer that holds the key itself."""
    name = form.get("name", "").strip()
    if len(name) > _NAME_LENGTH or not (name.isprintable() or not name):
        raise InvalidRequest(f"A key's name has up to {_NAME_LENGTH} printable characters.")
    record, secret = await services.accounts.create_key(visit.user, name)
    created = {"record": record, "key": secret.reveal()}
    template = "fragments/created.html" if "hx-request" in request.headers else "keys.html"
    return page(request, template, created=created, **await _shown(visit, services))


@router.post("/keys/{key_id}/revoke")
async def revoke(
    key_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    revoked = await services.accounts.revoke_key(key_id, visit.user)
    return done(request, f"{revoked.prefix}… is revoked.", "/keys")


async def _shown(visit: Visit, services: WebServices) -> dict[str, Any]:
    keys = await services.accounts.keys(visit.user)
    url = services.address.url
    return {"keys": keys[::-1], "url": url, "curl": curl_line(url, "claude")}
