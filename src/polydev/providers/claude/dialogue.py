"""One prompt to one `claude -p --input-format stream-json` process.

History goes in as turns of its own: a user turn with `shouldQuery: false` is acknowledged by a
`result` with no turns, an assistant turn by nothing. The CLI puts an assistant line that arrives
before that acknowledgement in front of the user turn it should follow, so each user turn of the
history is sent alone and waited for.
"""

from collections import deque
from datetime import datetime
from typing import Any

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
from polydev.providers.instants import instant
from polydev.providers.lines import from_line, to_line, unexpected

_STOP_REASONS = {
    "end_turn": EndReason.STOP,
    "stop_sequence": EndReason.STOP,
    "max_tokens": EndReason.LENGTH,
    "model_context_window_exceeded": EndReason.LENGTH,
    "refusal": EndReason.REFUSAL,
}
# What `error` on the assistant event says; statuses decide where it is missing.
_ERRORS = {
    "rate_limit": EndReason.RATE_LIMITED,
    "authentication_failed": EndReason.NEEDS_LOGIN,
    "oauth_org_not_allowed": EndReason.NEEDS_LOGIN,
    "billing_error": EndReason.NEEDS_LOGIN,
    "server_error": EndReason.PROVIDER_ERROR,
    "overloaded": EndReason.RATE_LIMITED,
    "invalid_request": EndReason.INVALID_REQUEST,
}


class ClaudeDialogue:
    """See polydev.providers.base.Dialogue."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._history = deque(prompt.history)
        self._asked = False
        self._started = False
        self._error: str | None = None
        self._usage: dict[str, Any] = {}
        self._limit_resets_at: datetime | None = None
        self._limit_rejected = False

    def open(self) -> tuple[bytes, ...]:
        return self._next_lines()

    def receive(self, line: bytes) -> Step:
        message = from_line(line, "claude")
        match message.get("type"):
            case "stream_event":
                return Step(events=tuple(self._stream_event(message)))
            case "assistant":
                self._error = message.get("error") or self._error
                return Step()
            case "rate_limit_event":
                return Step(events=tuple(self._rate_limit(message)))
            case "result" if not self._asked:
                return Step(send=self._next_lines())
            case "result":
                return Step(events=self._result(message))
            case "system":
                return self._system(message)
            case str():
                return Step()  # acknowledgements, and what newer versions may add
            case _:
                raise unexpected(line, "claude")

    def ended(self, exit_code: int, stderr: str) -> RunFinished:
        words = stderr.strip().splitlines()[-1][:300] if stderr.strip() else ""
        return finished(
            EndReason.CLI_FAILED,
            f"claude ended with exit code {exit_code} before it answered. {words}".strip(),
        )

    def _next_lines(self) -> tuple[bytes, ...]:
        """History up to and with its next user turn; or what is left of it, and the question."""
        lines: list[bytes] = []
        while self._history:
            turn = self._history.popleft()
            if turn.role == "user":
                return (*lines, _turn_line(turn, query=False))
            lines.append(_turn_line(turn))
        self._asked = True
        return (*lines, _turn_line(self._prompt.question))

    def _system(self, message: dict[str, Any]) -> Step:
        if message.get("subtype") != "init" or not self._asked or self._started:
            return Step()
        self._started = True
        return Step(events=(RunStarted(model=message.get("model")),))

    def _stream_event(self, message: dict[str, Any]) -> list[Event]:
        event = message.get("event") or {}
        if message.get("parent_tool_use_id") is not None:
            return []
        if event.get("type") == "message_start":
            # The result tells it again, exactly; an answer that is cut off has only this.
            self._usage = (event.get("message") or {}).get("usage") or {}
            return [_usage(self._usage)]
        if event.get("type") == "message_delta":
            delta = event.get("delta") or {}
            if delta.get("stop_reason") == "max_tokens":
                # Ended here: the CLI would ask again, up to three times, for the rest.
                usage = self._usage | (event.get("usage") or {})
                return [_usage(usage), finished(EndReason.LENGTH)]
        if event.get("type") == "content_block_delta":
            delta = event.get("delta") or {}
            if delta.get("type") == "text_delta" and delta.get("text"):
                return [TextDelta(text=delta["text"])]
            if delta.get("type") == "thinking_delta" and delta.get("thinking"):
                return [ReasoningDelta(text=delta["thinking"])]
        return []

    def _rate_limit(self, message: dict[str, Any]) -> list[Event]:
        info = message.get("rate_limit_info") or {}
        resets_at = instant(info.get("resetsAt"))
        # A short-rate 429 is "rejected" too, but names no window.
        if info.get("status") == "rejected" and (info.get("rateLimitType") or resets_at):
            self._limit_rejected = True
            self._limit_resets_at = resets_at
        windows = info.get("unifiedWindows") or {}
        if not windows and info.get("rateLimitType"):
            windows = {info["rateLimitType"]: info}
        return [
            WindowObserved(
                kind=kind,
                used_fraction=_fraction(window.get("utilization")),
                resets_at=instant(window.get("resetsAt")),
                source="event",
            )
            for kind, window in windows.items()
            if isinstance(window, dict)
        ]

    def _result(self, message: dict[str, Any]) -> tuple[Event, ...]:
        usage = _usage(message.get("usage") or {})
        if not message.get("is_error") and message.get("subtype") == "success":
            reason = _STOP_REASONS.get(str(message.get("stop_reason")), EndReason.STOP)
            return usage, finished(reason)
        reason = self._failure(message)
        text = str(message.get("result") or "; ".join(message.get("errors") or ()) or "no details")
        retry_at = self._limit_resets_at if reason is EndReason.WINDOW_EXHAUSTED else None
        return usage, finished(reason, text[:600], retry_at=retry_at)

    def _failure(self, message: dict[str, Any]) -> EndReason:
        status = integer(message.get("api_error_status"))
        if self._limit_rejected:
            return EndReason.WINDOW_EXHAUSTED
        if status in (401, 403):
            return EndReason.NEEDS_LOGIN
        if status in (429, 529):
            return EndReason.RATE_LIMITED
        if status in (400, 404, 413, 422):
            return EndReason.INVALID_REQUEST
        if status:
            return EndReason.PROVIDER_ERROR
        return _ERRORS.get(self._error or "", EndReason.CLI_FAILED)


def _turn_line(turn: Turn, *, query: bool = True) -> bytes:
    message: dict[str, Any] = {
        "type": turn.role,
        "message": {"role": turn.role, "content": [_block(part) for part in turn.parts]},
    }
    if not query:
        message["shouldQuery"] = False
    return to_line(message)


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Image(media_type=media_type, data=data):
            source = {"type": "base64", "media_type": media_type, "data": data}
            return {"type": "image", "source": source}


def _usage(usage: dict[str, Any]) -> UsageReported:
    """Anthropic counts cached input apart; the total is what OpenAI's word means."""
    cached = integer(usage.get("cache_read_input_tokens"))
    written = integer(usage.get("cache_creation_input_tokens"))
    details = usage.get("output_tokens_details") or {}
    return UsageReported(
        input_tokens=integer(usage.get("input_tokens")) + cached + written,
        output_tokens=integer(usage.get("output_tokens")),
        cached_input_tokens=cached,
        reasoning_tokens=integer(details.get("thinking_tokens")),
    )


def _fraction(value: Any) -> float | None:
    return min(1.0, max(0.0, float(value))) if isinstance(value, (int, float)) else None
