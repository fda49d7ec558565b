"""Signing in by a link that works once, and out again."""

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from polydev.secret import Secret
from polydev.web.dependencies import VisitDependency, WebServicesDependency
from polydev.web.guard import check_origin, set_cookie

HOME = "/connections"

public = APIRouter()
pages = APIRouter()


@public.get("/sign-in/{link}")
async def sign_in(link: str, request: Request, services: WebServicesDependency) -> Response:
    """Another site's page must not sign a person in as somebody else."""
    if request.headers.get("sec-fetch-site") not in (None, "none", "same-origin"):
        check_origin(request, services.address, needed=True)
    token = await services.sign_ins.redeem(Secret(link))
    response = RedirectResponse(HOME, status_code=303)
    set_cookie(response, services.address, token)
    return response


@pages.post("/sign-out")
async def sign_out(visit: VisitDependency, services: WebServicesDependency) -> Response:
    await services.sign_ins.sign_out(visit.token)
    response = RedirectResponse(HOME, status_code=303)
    set_cookie(response, services.address, None)
    return response


@pages.get("/")
async def home(visit: VisitDependency) -> Response:
    return RedirectResponse(HOME, status_code=303)
