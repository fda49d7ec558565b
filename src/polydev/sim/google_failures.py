"""Google's refusals: `{"error": {code, message, status, details}}`, and what the details say.

Code Assist tells a used-up quota (`QUOTA_EXHAUSTED`) from a short rate (`RATE_LIMIT_EXCEEDED`) by
an ErrorInfo; the Gemini API tells them by the quota's id. Both give the wait as RetryInfo.
"""

from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse

from polydev.sim.knobs import Knobs
from polydev.sim.wire import Fault, iso

_TYPE = "type.googleapis.com/google.rpc."
_API_KEY_SERVICE = "generativelanguage.googleapis.com"


def refusal(reason: str, service: str) -> JSONResponse:
    """What a token that is not good is answered with."""
    if service == _API_KEY_SERVICE:
        return _refused_key(reason, service)
    expired = reason in ("expired", "revoked")
    why = "ACCESS_TOKEN_EXPIRED" if expired else "CREDENTIALS_MISSING"
    if reason == "unknown":
        why = "ACCESS_TOKEN_TYPE_UNSUPPORTED"
    return _error(
        401,
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login "
        "cookie or other valid authentication credential.",
        [_info(why, "googleapis.com", {"service": service})],
        {"www-authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'},
    )


def failure(
    fault: Fault, service: str, knobs: Knobs, *, model: str, resets_at: datetime
) -> JSONResponse:
    """What an account's knobs make of a model request."""
    match fault:
        case Fault.SERVER_ERROR:
            code = knobs.server_error or 500
            status = "UNAVAILABLE" if code == 503 else "INTERNAL"
            return _error(code, status, "Internal error encountered.")
        case Fault.OVERLOADED:
            return _error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")
        case Fault.RATE_LIMITED:
            return _limited(service, model, float(knobs.retry_after_seconds), None)
        case Fault.LIMIT_REACHED:
            seconds = max(1.0, (resets_at - datetime.now(UTC)).total_seconds())
            return _limited(service, model, seconds, resets_at)


def _limited(service: str, model: str, seconds: float, resets_at: datetime | None) -> JSONResponse:
    """429: a quota that is used up until `resets_at`, or a short rate."""
    wait = f"{seconds:.3f}s"
    retry = {"@type": f"{_TYPE}RetryInfo", "retryDelay": wait}
    if service == _API_KEY_SERVICE:
        span = "PerDay" if resets_at else "PerMinute"
        violation = {
            "quotaMetric": f"{service}/generate_content_free_tier_requests",
            "quotaId": f"GenerateRequests{span}PerProjectPerModel-FreeTier",
            "quotaDimensions": {"location": "global", "model": model},
            "quotaValue": "50",
        }
        return _error(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details. "
            f"Please retry in {wait}.",
            [{"@type": f"{_TYPE}QuotaFailure", "violations": [violation]}, retry],
        )
    metadata = {"uiMessage": "true", "model": model, "quotaResetDelay": wait}
    if resets_at is None:
        message = "No capacity available for this request right now. Please try again later."
        info = _info("RATE_LIMIT_EXCEEDED", service, {"model": model})
    else:
        metadata["quotaResetTimeStamp"] = iso(resets_at)
        message = (
            "You have exhausted your capacity on this model. "
            f"Your quota will reset after {_span(seconds)}."
        )
        info = _info("QUOTA_EXHAUSTED", service, metadata)
    return _error(429, "RESOURCE_EXHAUSTED", message, [info, retry])


def _refused_key(reason: str, service: str) -> JSONResponse:
    if reason == "missing":
        return _error(
            403,
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without established identity). "
            "Please use API Key or other form of API consumer identity to call this API.",
        )
    return _error(
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
        [_info("API_KEY_INVALID", "googleapis.com", {"service": service})],
    )


def _info(reason: str, domain: str, metadata: dict[str, str]) -> dict[str, Any]:
    return {
        "@type": f"{_TYPE}ErrorInfo",
        "reason": reason,
        "domain": domain,
        "metadata": metadata,
    }


def _span(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}h{whole % 3600 // 60}m{whole % 60}s"


def _error(
    code: int,
    status: str,
    message: str,
    details: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        error["details"] = details
    return JSONResponse({"error": error}, code, headers=headers)
