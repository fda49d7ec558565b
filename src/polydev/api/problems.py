"""Errors in each surface's own format.

`/v1/messages` answers as Anthropic does, `/v1/chat/completions` and `/v1/models` as OpenAI does
(or as Anthropic, when the client sends `anthropic-version`), everything else natively. All carry
what happened, the remedy and, where there is one, the time to try again (`retry-after`).
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from polydev.errors import Busy, InvalidRequest, NotFound, PolydevError

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


class Format(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    NATIVE = "native"


def format_of(connection: HTTPConnection) -> Format:
    """Which surface a request was meant for."""
    path = connection.url.path
    if path.startswith("/v1/messages"):
        return Format.ANTHROPIC
    if path.startswith("/v1/models") and "anthropic-version" in connection.headers:
        return Format.ANTHROPIC
    if path.startswith(("/v1/chat", "/v1/models")):
        return Format.OPENAI
    return Format.NATIVE


def body_of(error: PolydevError, format: Format) -> dict[str, Any]:
    """The JSON that says `error` in this format."""
    extra: dict[str, Any] = {"reason": error.reason}
    if error.retry_at is not None:
        extra["retry_at"] = error.retry_at.astimezone(UTC).isoformat()
    if error.provider:
        extra["provider"] = error.provider
    match format:
        case Format.ANTHROPIC:
            kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
            if 400 < error.status < 500 and error.status not in _ANTHROPIC_TYPES:
                kind = "invalid_request_error"
            return {"type": "error", "error": {"type": kind, "message": str(error), **extra}}
        case Format.OPENAI:
            kind = _OPENAI_TYPES.get(
                error.status, "invalid_request_error" if error.status < 500 else "server_error"
            )
            return {
                "error": {
                    "message": str(error),
                    "type": kind,
                    "param": None,
                    "code": error.code,
                    **extra,
                }
            }
        case Format.NATIVE:
            return {
                "error": {
                    "code": error.code,
                    "message": error.message,
                    "remedy": error.remedy,
                    **extra,
                }
            }


def headers_of(error: PolydevError) -> Mapping[str, str]:
    headers = {}
    if error.retry_at is not None:
        seconds = (error.retry_at - datetime.now(UTC)).total_seconds()
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if not isinstance(error, Busy):
        # The SDKs ask again by themselves after most errors; what may have reached the provider
        # is never repeated for them. Only a full queue has surely run nothing.
        headers["x-should-retry"] = "false"
    return headers


def response_to(error: PolydevError, request: HTTPConnection) -> JSONResponse:
    return JSONResponse(
        body_of(error, format_of(request)),
        status_code=error.status,
        headers=dict(headers_of(error)),
    )


async def on_polydev_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PolydevError)
    return response_to(error, request)


async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return response_to(invalid_request(error), request)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException)
    problem: PolydevError
    if isinstance(error.__cause__, PolydevError):
        problem = error.__cause__  # raised while the framework read the body
    elif error.status_code == 404:
        problem = NotFound(
            f"There is nothing at {request.method} {request.url.path[:200]}.",
            remedy="GET /openapi.json lists what there is.",
        )
    else:
        problem = InvalidRequest(str(error.detail))
        problem.status = error.status_code
    response = response_to(problem, request)
    response.headers.update(error.headers or {})
    return response


async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
    """A defect of ours; the server's log gets the traceback, the client only this."""
    problem = PolydevError(
        "polydev made a mistake.", remedy="Its log has the details; please report it."
    )
    return response_to(problem, request)


def invalid_request(error: RequestValidationError) -> InvalidRequest:
    """Names each field that is wrong and how; never repeats what was sent."""
    wrong = []
    for item in error.errors()[:8]:
        place = _presentable(".".join(str(part) for part in item["loc"] if part != "body"))
        if item["type"] == "json_invalid":
            return InvalidRequest(
                "The body is not valid JSON.", remedy="Send a JSON object.", reason="invalid_json"
            )
        words = item["msg"]
        if item["type"] == "union_tag_invalid":  # its own words repeat what was sent
            words = f"type must be one of {item['ctx']['expected_tags']}"
        wrong.append(f"{place or 'body'}: {words}")
    return InvalidRequest(f"The request has mistakes: {'; '.join(wrong)}.")


def _presentable(name: str) -> str:
    """A field's name as the client sent it, which may be anything."""
    return "".join(sign if sign.isprintable() else "?" for sign in name[:100])
