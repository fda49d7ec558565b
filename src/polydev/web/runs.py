"""A person's runs as they go, and one of them with its events."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from polydev.errors import NotFound
from polydev.models.runs import Run
from polydev.web.dependencies import (
    Visit,
    VisitDependency,
    WebServices,
    WebServicesDependency,
)
from polydev.web.pages import done, page

router = APIRouter()
_SHOWN = 50


@router.get("/runs")
async def runs(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    found = await services.runs.latest(visit.caller, _SHOWN)
    return page(request, "runs.html", runs=found)


@router.get("/runs/list")
async def run_list(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    found = await services.runs.latest(visit.caller, _SHOWN)
    return page(request, "fragments/runs.html", runs=found)


@router.get("/runs/{run_id}")
async def run(
    run_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    found = await _found(run_id, visit, services)
    return page(request, "run.html", run=found, asked=await _asked(run_id, visit, services))


@router.get("/runs/{run_id}/summary")
async def summary(
    run_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    found = await _found(run_id, visit, services)
    return page(request, "fragments/run.html", run=found)


@router.post("/runs/{run_id}/cancel")
async def cancel(
    run_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    await _found(run_id, visit, services)
    ended = await services.runs.cancel(visit.caller, run_id)
    return done(request, f"The run is {ended.state.value}.", f"/runs/{run_id}")


async def _found(run_id: str, visit: Visit, services: WebServices) -> Run:
    try:
        return await services.runs.get(visit.caller, run_id)
    except NotFound as error:
        raise NotFound(error.message, remedy="The list of runs has the latest.") from error


async def _asked(run_id: str, visit: Visit, services: WebServices) -> str | None:
    """The question; None when texts of this run are not kept."""
    try:
        return (await services.runs.prompt(visit.caller, run_id)).question.text()
    except NotFound:
        return None
