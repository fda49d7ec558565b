"""Errors as a person meets them: a page, a line in the page they are on, or words for a script."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from polydev.errors import InvalidRequest, NotFound, NotSignedIn, PolydevError
from polydev.web import pages


def as_text(error: PolydevError) -> Response:
    """For where no page of ours may be shown."""
    return PlainTextResponse(f"{error}\n", status_code=error.status)


def response_to(error: PolydevError, request: Request) -> Response:
    if "application/json" in request.headers.get("accept", ""):
        body = {"message": error.message, "remedy": error.remedy, "reason": error.reason}
        return JSONResponse({"error": body}, status_code=error.status)
    if "hx-request" in request.headers:
        response = pages.page(request, "fragments/problem.html", status=error.status, error=error)
        if isinstance(error, NotSignedIn):
            response.headers["hx-refresh"] = "true"  # the page itself says what to do then
        return response
    template = "signed_out.html" if isinstance(error, NotSignedIn) else "problem.html"
    return pages.page(request, template, status=error.status, error=error)


async def on_polydev_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PolydevError)
    return response_to(error, request)


async def on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response_to(InvalidRequest("The address has a mistake."), request)


async def on_http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException)
    problem: PolydevError
    if error.status_code == 404:
        problem = NotFound("There is no such page.")
    else:
        problem = InvalidRequest(f"{error.detail}.")
        problem.status = error.status_code
    response = response_to(problem, request)
    response.headers.update(error.headers or {})
    return response


async def on_unexpected(request: Request, error: Exception) -> Response:
    """A defect of ours; the server's log gets the traceback, the person only this."""
    problem = PolydevError(
        "polydev made a mistake.", remedy="Its log has the details; please report it."
    )
    return response_to(problem, request)
