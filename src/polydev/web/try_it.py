"""Asking a model from the page."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from polydev.core.catalogue import listed_models, resolve_model
from polydev.errors import InvalidRequest
from polydev.models.accounts import ConnectionState
from polydev.models.runs import Prompt, RunRequest, Surface, Text, Turn
from polydev.web.dependencies import FormDependency, VisitDependency, WebServicesDependency
from polydev.web.pages import page

router = APIRouter()


@router.get("/try")
async def try_it(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    connected = {
        connection.provider
        for connection in await services.connections.of_user(visit.user)
        if connection.state is ConnectionState.ACTIVE
    }
    models = [model for model in listed_models() if model.provider in connected]
    return page(request, "try.html", models=models)


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
    model = resolve_model(form.get("model", ""))
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
