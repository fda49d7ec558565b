"""`/healthz`, `/readyz`, `/metrics`: for whoever watches the gateway; they need no key."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from polydev.api.dependencies import ServicesDependency

router = APIRouter(tags=["Health"])


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> PlainTextResponse:
    """Alive: the process answers."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", responses={503: {"description": "Something is in the way."}})
async def readyz(services: ServicesDependency) -> Response:
    """Ready: runs can be executed. 503 names what is in the way."""
    problems = await services.runs.obstacles()
    return JSONResponse(
        {"ready": not problems, "problems": problems}, status_code=503 if problems else 200
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: ServicesDependency) -> Response:
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)
