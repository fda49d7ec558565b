"""Asking a model from the page."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from polydev.core.catalogue import Model, listed_models, resolve_model
from polydev.errors import InvalidRequest
from polydev.models.accounts import ConnectionState
from polydev.models.runs import Prompt, RunRequest, Surface, Text, Turn
from polydev.web.dependencies import (
    FormDependency,
    Visit,
    VisitDependency,
    WebServices,
    WebServicesDependency,
)
from polydev.web.pages import page

router = APIRouter()


@router.get("/try")
async def try_it(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "try.html", models=await _models(visit, services))


@router.get("/try/models")
async def models(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "fragments/models.html", models=await _models(visit, services))


@router.post("/try")
async def ask(
    request: Request,
    visit: VisitDependency,
    form: FormDependency,
    services: WebServicesDependency,
) -> Response:
    """Starts a run: its id for a script, its page for a browser without."""
    question = form.get("prompt", "")
    if not question.strip():
        raise InvalidRequest("There is nothing to ask.", remedy="Write a prompt first.")
    if "model" not in form:
        raise InvalidRequest("No connection is active.", remedy="Connect a subscription first.")
    model = resolve_model(form["model"])
    active = await services.runs.submit(
        visit.caller,
        RunRequest(
            provider=model.provider,
            prompt=Prompt(
                model=model.name, turns=(Turn(role="user", parts=(Text(text=question),)),)
            ),
            surface=Surface.DASHBOARD,
        ),
    )
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"run": active.run.id}, status_code=202)
    return RedirectResponse(f"/runs/{active.run.id}", status_code=303)


async def _models(visit: Visit, services: WebServices) -> list[Model]:
    """Those that can be asked now."""
    connected = {
        connection.provider
        for connection in await services.connections.of_user(visit.user)
        if connection.state is ConnectionState.ACTIVE
    }
    return [model for model in listed_models() if model.provider in connected]
