"""What an agent's JSON-RPC error means.

Agents hand on what their provider answered in three ways, often at once: its status as the
error's code, its status at the beginning of a text, and its words. Spans ("reset after 1h2m3s")
are told as they are: there is no clock here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polydev.events import EndReason
from polydev.providers.acp.agent import Agent
from polydev.providers.base import integer

# The protocol's own code for "log in first".
_AUTHENTICATION_REQUIRED = -32000
_INVALID_PARAMETERS = -32602

_STATUSES: Mapping[int, EndReason] = {
    400: EndReason.INVALID_REQUEST,
    401: EndReason.NEEDS_LOGIN,
    403: EndReason.NEEDS_LOGIN,
    404: EndReason.INVALID_REQUEST,
    413: EndReason.INVALID_REQUEST,
    422: EndReason.INVALID_REQUEST,
    429: EndReason.RATE_LIMITED,
    _AUTHENTICATION_REQUIRED: EndReason.NEEDS_LOGIN,
    _INVALID_PARAMETERS: EndReason.INVALID_REQUEST,
}
_LEADING_STATUS = re.compile(r"\s*([45]\d\d)\b")
_SPAN = re.compile(
    r"(?:reset after|retry (?:in|after)|try again in)\s+"
    r"(?=\d)(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m(?!s))?\s*(?:(\d+(?:\.\d+)?)s)?",
    re.IGNORECASE,
)
_SPAN_UNITS = (86400, 3600, 60, 1)
_RATE_LIMIT_SECONDS = 10.0
_LONGEST_MESSAGE = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    reason: EndReason
    message: str
    retry_after_seconds: float | None = None


def judge(agent: Agent, error: Mapping[str, Any]) -> Failure:
    """What the `error` of a JSON-RPC answer means for the run."""
    text = _text(error)
    reason = next(
        (reason for pattern, reason in agent.phrases if re.search(pattern, text)),
        None,
    ) or _reason(_status(error, text))
    seconds = span_seconds(text)
    if seconds is None and reason is EndReason.RATE_LIMITED:
        seconds = _RATE_LIMIT_SECONDS
    return Failure(
        reason=reason,
        message=_for_people(text) or f"{agent.title} failed without a word.",
        retry_after_seconds=seconds
        if reason in (EndReason.RATE_LIMITED, EndReason.WINDOW_EXHAUSTED)
        else None,
    )


def status_reason(status: int) -> EndReason | None:
    """What an HTTP status means; None when it tells nothing on its own."""
    return EndReason.PROVIDER_ERROR if status >= 500 else _STATUSES.get(status)


def span_seconds(text: str) -> float | None:
    """The span that a text asks to wait."""
    match = _SPAN.search(text)
    if match is None or not any(match.groups()):
        return None
    units = zip(match.groups(), _SPAN_UNITS, strict=True)
    return sum(float(count) * unit for count, unit in units if count)


def _reason(status: int) -> EndReason:
    return status_reason(status) or EndReason.CLI_FAILED


def _status(error: Mapping[str, Any], text: str) -> int:
    code = integer(error.get("code"))
    if code >= 400 or code == _AUTHENTICATION_REQUIRED:
        return code
    leading = _LEADING_STATUS.match(text)
    return int(leading[1]) if leading else code


def _text(error: Mapping[str, Any]) -> str:
    """The error's words: the details, where the message is only the protocol's own."""
    data = error.get("data")
    details = data.get("details") if isinstance(data, dict) else data
    return str(details or error.get("message") or "")


def _for_people(text: str) -> str:
    """The first paragraph; of a JSON text, its message."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        text = str(value["error"].get("message") or text)
    return text.partition("\n\n")[0].strip()[:_LONGEST_MESSAGE]
