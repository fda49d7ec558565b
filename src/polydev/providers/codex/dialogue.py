"""One prompt to one `codex app-server` process: JSON-RPC, a message a line.

Everything up to the thread is sent at once. The thread's id comes with its answer; then history
goes in as items of its own, and the question right behind it, without waiting. Requests are
numbered 1 to 4; what the CLI asks of its client (approvals, mostly) is refused.
"""

from datetime import UTC, datetime
from typing import Any

from polydev import __version__
from polydev.events import (
    EndReason,
    Event,
    ReasoningDelta,
    RunFinished,
    RunStarted,
    TextDelta,
    UsageReported,
    WindowObserved,
)
from polydev.models.runs import Image, Part, Prompt, Text, Turn
from polydev.providers.base import Step, finished, integer
from polydev.providers.lines import fields, from_line, to_line, unexpected

# Where the CLI is told to renew its login. Nothing answers there: a run has nothing to renew, so an
# error that names this address says that the provider refused the token.
RENEWAL_URL = "http://127.0.0.1:9/oauth/token"

_INITIALIZE, _THREAD, _HISTORY, _TURN = 1, 2, 3, 4

# What `codexErrorInfo` says; an HTTP status decides where it carries one.
_ERRORS = {
    "usageLimitExceeded": EndReason.WINDOW_EXHAUSTED,
    "rateLimitExceeded": EndReason.RATE_LIMITED,
    "serverOverloaded": EndReason.RATE_LIMITED,
    "policyCapacityUnavailable": EndReason.RATE_LIMITED,
    "flexUnavailable": EndReason.RATE_LIMITED,
    "unauthorized": EndReason.NEEDS_LOGIN,
    "badRequest": EndReason.INVALID_REQUEST,
    "modelNotFound": EndReason.INVALID_REQUEST,
    "contextWindowExceeded": EndReason.INVALID_REQUEST,
    "cyberPolicy": EndReason.REFUSAL,
    "misalignmentPolicyViolation": EndReason.REFUSAL,
    "inferenceHookDenied": EndReason.REFUSAL,
    "sandboxError": EndReason.CLI_FAILED,
    "sessionBudgetExceeded": EndReason.CLI_FAILED,
}
_STATUSES = {
    401: EndReason.NEEDS_LOGIN,
    403: EndReason.NEEDS_LOGIN,
    429: EndReason.RATE_LIMITED,
    400: EndReason.INVALID_REQUEST,
    404: EndReason.INVALID_REQUEST,
    413: EndReason.INVALID_REQUEST,
    422: EndReason.INVALID_REQUEST,
}
# The protocol's own words for "no", by the request that is answered with it.
_REFUSALS = {
    "item/commandExecution/requestApproval": {"decision": "decline"},
    "item/fileChange/requestApproval": {"decision": "decline"},
    "execCommandApproval": {"decision": "denied"},
    "applyPatchApproval": {"decision": "denied"},
    "mcpServer/elicitation/request": {"action": "decline"},
}
# What it complains of at every start without its tools, and works all the same.
_NOISE = "could not find bubblewrap"
_INVALID = (-32600, -32602)
_NOT_OFFERED = -32601


class CodexDialogue:
    """See polydev.providers.base.Dialogue."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._model: str | None = None
        self._message: str | None = None  # the item whose text came last
        self._summary: str | None = None  # the same of reasoning
        self._error: dict[str, Any] = {}
        self._full_until: datetime | None = None

    def open(self) -> tuple[bytes, ...]:
        client = {"name": "polydev", "title": "polydev", "version": __version__}
        return (
            _request(_INITIALIZE, "initialize", {"clientInfo": client}),
            to_line({"method": "initialized"}),
            _request(
                _THREAD,
                "thread/start",
                {
                    "model": self._prompt.model,
                    "baseInstructions": self._prompt.system,
                    "approvalPolicy": "never",
                    "sandbox": "read-only",
                    "ephemeral": True,
                },
            ),
        )

    def receive(self, line: bytes) -> Step:
        message = from_line(line, "codex")
        method, number = message.get("method"), message.get("id")
        if isinstance(method, str):
            if number is not None:
                return Step(send=(_refusal(method, number),))
            return Step(events=tuple(self._notified(method, fields(message, "params"))))
        if "error" in message:
            return Step(events=(_rejected(number, fields(message, "error")),))
        if number == _THREAD:
            return Step(send=self._ask(fields(message, "result")))
        if isinstance(number, int):
            return Step()
        raise unexpected(line, "codex")

    def ended(self, exit_code: int, stderr: str) -> RunFinished:
        said = [line for line in stderr.splitlines() if line.strip() and _NOISE not in line]
        words = said[-1].strip()[:300] if said else ""
        return finished(
            EndReason.CLI_FAILED,
            f"codex ended with exit code {exit_code} before it answered. {words}".strip(),
        )

    def _ask(self, result: dict[str, Any]) -> tuple[bytes, ...]:
        """History and question, once there is a thread to put them in."""
        thread = fields(result, "thread").get("id")
        self._model = result.get("model") or self._prompt.model
        history = [_item(turn) for turn in self._prompt.history]
        question = [_input(part) for part in self._prompt.question.parts]
        turn = _request(_TURN, "turn/start", {"threadId": thread, "input": question})
        if not history:
            return (turn,)
        items = {"threadId": thread, "items": history}
        return (_request(_HISTORY, "thread/inject_items", items), turn)

    def _notified(self, method: str, params: dict[str, Any]) -> list[Event]:
        match method:
            case "turn/started":
                return [RunStarted(model=self._model)]
            case "item/agentMessage/delta":
                return self._text(params.get("itemId"), params.get("delta"))
            case "item/reasoning/summaryTextDelta" | "item/reasoning/textDelta":
                return self._reasoning(params)
            case "item/completed":
                item = fields(params, "item")
                if item.get("type") == "agentMessage" and item.get("id") != self._message:
                    return self._text(item.get("id"), item.get("text"))  # it came in one piece
            case "thread/tokenUsage/updated":
                return [_usage(fields(fields(params, "tokenUsage"), "total"))]
            case "account/rateLimits/updated":
                return self._windows(fields(params, "rateLimits"))
            case "error":
                self._error = fields(params, "error")
            case "turn/completed":
                return [self._completed(fields(params, "turn"))]
        return []  # progress of no interest, and what newer versions may add

    def _text(self, item: Any, text: Any) -> list[Event]:
        """A piece of an answer; one that says more than one thing has them in paragraphs."""
        if not text:
            return []
        begins_another = self._message is not None and self._message != item
        self._message = item
        return [TextDelta(text="\n\n" + text if begins_another else text)]

    def _reasoning(self, params: dict[str, Any]) -> list[Event]:
        part = f"{params.get('itemId')}/{params.get('summaryIndex')}/{params.get('contentIndex')}"
        text = params.get("delta")
        if not text:
            return []
        begins_another = self._summary is not None and self._summary != part
        self._summary = part
        return [ReasoningDelta(text="\n\n" + text if begins_another else text)]

    def _windows(self, limits: dict[str, Any]) -> list[Event]:
        limit = limits.get("limitId")
        prefix = "" if limit in (None, "codex") else f"{limit}_"
        found: list[Event] = []
        for kind in ("primary", "secondary"):
            window = fields(limits, kind)
            if not window:
                continue
            percent, resets_at = window.get("usedPercent"), _instant(window.get("resetsAt"))
            is_full = isinstance(percent, (int, float)) and percent >= 100
            # Whichever full window opens last is the one that has to be waited for.
            if is_full and resets_at and (not self._full_until or resets_at > self._full_until):
                self._full_until = resets_at
            found.append(
                WindowObserved(
                    kind=prefix + kind,
                    used_fraction=_fraction(percent),
                    resets_at=resets_at,
                    source="event",
                )
            )
        return found

    def _completed(self, turn: dict[str, Any]) -> RunFinished:
        match turn.get("status"):
            case "completed":
                return finished(EndReason.STOP)
            case "interrupted":
                return finished(EndReason.CANCELLED, "codex interrupted the answer.")
        error = fields(turn, "error") or self._error
        text = str(error.get("message") or "codex failed without a reason.")
        if RENEWAL_URL in text:
            return finished(EndReason.NEEDS_LOGIN, "ChatGPT refused the login's access token.")
        reason = _reason(error.get("codexErrorInfo"))
        retry_at = self._full_until if reason is EndReason.WINDOW_EXHAUSTED else None
        return finished(reason, text[:600], retry_at=retry_at)


def _reason(info: Any) -> EndReason:
    if isinstance(info, dict):
        kind, details = next(iter(info.items()), ("", None))
        status = integer(details.get("httpStatusCode")) if isinstance(details, dict) else 0
        if status:
            return _STATUSES.get(status, EndReason.PROVIDER_ERROR)
        return _ERRORS.get(kind, EndReason.PROVIDER_ERROR)
    return _ERRORS.get(str(info), EndReason.PROVIDER_ERROR)


def _rejected(number: Any, error: dict[str, Any]) -> RunFinished:
    """The end that a refused request of ours is."""
    is_prompt = number in (_HISTORY, _TURN) and integer(error.get("code")) in _INVALID
    reason = EndReason.INVALID_REQUEST if is_prompt else EndReason.CLI_FAILED
    return finished(reason, str(error.get("message") or "codex refused the request.")[:600])


def _refusal(method: str, number: Any) -> bytes:
    if method in _REFUSALS:
        return to_line({"id": number, "result": _REFUSALS[method]})
    error = {"code": _NOT_OFFERED, "message": f"{method} is not offered here"}
    return to_line({"id": number, "error": error})


def _item(turn: Turn) -> dict[str, Any]:
    return {
        "type": "message",
        "role": turn.role,
        "content": [_content(part, turn.role) for part in turn.parts],
    }


def _content(part: Part, role: str) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"type": "output_text" if role == "assistant" else "input_text", "text": text}
        case Image():
            return {"type": "input_image", "image_url": _data_url(part)}


def _input(part: Part) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Image():
            return {"type": "image", "url": _data_url(part)}


def _data_url(image: Image) -> str:
    return f"data:{image.media_type};base64,{image.data}"


def _usage(total: dict[str, Any]) -> UsageReported:
    return UsageReported(
        input_tokens=integer(total.get("inputTokens")),
        output_tokens=integer(total.get("outputTokens")),
        cached_input_tokens=integer(total.get("cachedInputTokens")),
        reasoning_tokens=integer(total.get("reasoningOutputTokens")),
    )


def _fraction(percent: Any) -> float | None:
    return min(1.0, max(0.0, percent / 100)) if isinstance(percent, (int, float)) else None


def _instant(value: Any) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, (int, float)) else None


def _request(number: int, method: str, params: dict[str, Any]) -> bytes:
    return to_line({"id": number, "method": method, "params": params})
