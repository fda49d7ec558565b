"""One prompt to one agent that speaks the Agent Client Protocol: JSON-RPC, a message a line.

What opens the session (who asks, which session, in which directory) is the launch's, for only the
launch knows the place; `opening` below makes those lines, and the session's id travels as the id
of its request, so that the answer brings it back. The question follows that answer. An agent that
is given a past may repeat it as news: those pieces are recognised by order and text. Whatever the
agent asks of its client (files, terminals, permissions) is refused.
"""

import re
from collections import deque
from pathlib import PurePosixPath
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
)
from polydev.models.runs import Image, Part, Prompt, Text
from polydev.providers.acp.agent import Agent
from polydev.providers.acp.failures import judge
from polydev.providers.acp.turns import guarded, past_turns
from polydev.providers.base import Step, finished, integer
from polydev.providers.lines import fields, from_line, to_line, unexpected

_INITIALIZE, _PROMPT, _SESSION = "initialize", "prompt", "session "

_STOP_REASONS = {
    "end_turn": EndReason.STOP,
    "max_tokens": EndReason.LENGTH,
    "max_turn_requests": EndReason.LENGTH,
    "refusal": EndReason.REFUSAL,
    "cancelled": EndReason.CANCELLED,
}
_NOT_OFFERED = -32601


def opening(agent: Agent, *, session_id: str, workspace: PurePosixPath, past: bool) -> list[bytes]:
    """The lines before the question: who asks, and the session. `past`: it has a session file."""
    place: dict[str, Any] = {"cwd": str(workspace), "mcpServers": []}
    method = "session/new"
    if past and agent.history is not None:
        method = agent.history.method
        place["sessionId"] = session_id
    return [
        _request(
            _INITIALIZE,
            "initialize",
            {
                "protocolVersion": 1,
                "clientInfo": {"name": "polydev", "version": __version__},
                "clientCapabilities": {
                    "fs": {"readTextFile": False, "writeTextFile": False},
                    "terminal": False,
                },
            },
        ),
        _request(_SESSION + session_id, method, place),
    ]


class AcpDialogue:
    """See polydev.providers.base.Dialogue."""

    def __init__(self, agent: Agent, prompt: Prompt) -> None:
        self._agent = agent
        self._prompt = prompt
        self._usage: UsageReported | None = None
        replayed = past_turns(agent, prompt) if agent.history and agent.history.replays else ()
        self._replayed = deque(
            turn.text() for turn in replayed if turn.role == "assistant" and turn.text().strip()
        )

    def open(self) -> tuple[bytes, ...]:
        return ()  # the launch's opening asks for the session

    def receive(self, line: bytes) -> Step:
        message = from_line(line, self._agent.name)
        method, number = message.get("method"), message.get("id")
        if isinstance(method, str):
            if number is not None:
                return Step(send=(_refusal(method, number),))
            update = fields(fields(message, "params"), "update")
            return Step(events=tuple(self._updated(update)))
        if "error" in message:
            return self._failed(fields(message, "error"))
        if number == _INITIALIZE:
            return Step()
        if isinstance(number, str) and number.startswith(_SESSION):
            return self._opened(number.removeprefix(_SESSION), fields(message, "result"))
        if number == _PROMPT:
            return Step(events=tuple(self._answered(fields(message, "result"))))
        raise unexpected(line, self._agent.name)

    def ended(self, exit_code: int, stderr: str) -> RunFinished:
        words = stderr.strip().splitlines()[-1][:300] if stderr.strip() else ""
        name = self._agent.name
        return finished(
            EndReason.CLI_FAILED,
            f"{name} ended with exit code {exit_code} before it answered. {words}".strip(),
        )

    def _opened(self, asked_for: str, result: dict[str, Any]) -> Step:
        """The session is there: the question goes in."""
        current = str(fields(result, "models").get("currentModelId") or "")
        if re.fullmatch(self._agent.chooses, current):
            return Step(events=(self._not_offered(),))
        question = guarded(self._prompt.question, self._agent.guard.question)
        asked = {
            "sessionId": result.get("sessionId") or asked_for,
            "prompt": [_block(part) for part in question.parts],
        }
        return Step(
            events=(RunStarted(model=_model(result) or self._prompt.model),),
            send=(_request(_PROMPT, "session/prompt", asked),),
        )

    def _not_offered(self) -> RunFinished:
        return finished(
            EndReason.INVALID_REQUEST,
            f"This login is not offered {self._prompt.model}, and the CLI would have another model "
            f"answer. Ask for {self._agent.name}/{self._agent.catalogue.default}, for example.",
        )

    def _updated(self, update: dict[str, Any]) -> list[Event]:
        text = fields(update, "content").get("text")
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                if self._replayed and text == self._replayed[0]:
                    self._replayed.popleft()
                    return []
                delta: list[Event] = [TextDelta(text=text)] if text else []
                return delta + self._used(fields(fields(update, "_meta"), "usage"))
            case "agent_thought_chunk" if text:
                return [ReasoningDelta(text=text)]
        return []  # plans, commands, modes, and what newer versions may add

    def _used(self, usage: dict[str, Any]) -> list[Event]:
        """Tokens of one request of the agent; a run may have several."""
        if not usage:
            return []
        before = self._usage or UsageReported(input_tokens=0, output_tokens=0)
        self._usage = UsageReported(
            input_tokens=before.input_tokens + integer(usage.get("inputTokens")),
            output_tokens=before.output_tokens + integer(usage.get("outputTokens")),
            cached_input_tokens=before.cached_input_tokens + integer(usage.get("cachedReadTokens")),
            reasoning_tokens=before.reasoning_tokens + integer(usage.get("thoughtTokens")),
        )
        return [self._usage]

    def _answered(self, result: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        quota = fields(fields(fields(result, "_meta"), "quota"), "token_count")
        if quota:
            tokens = integer(quota.get("input_tokens")), integer(quota.get("output_tokens"))
            events.append(UsageReported(input_tokens=tokens[0], output_tokens=tokens[1]))
        elif self._usage is None:
            events += self._used(fields(result, "usage"))
        reason = _STOP_REASONS.get(str(result.get("stopReason")), EndReason.STOP)
        return [*events, finished(reason)]

    def _failed(self, error: dict[str, Any]) -> Step:
        failure = judge(self._agent, error)
        return Step(
            events=(finished(failure.reason, failure.message),),
            retry_after_seconds=failure.retry_after_seconds,
        )


def _model(result: dict[str, Any]) -> str | None:
    """What the agent calls the model that it is going to ask."""
    models = fields(result, "models")
    current = models.get("currentModelId")
    for model in models.get("availableModels") or ():
        if isinstance(model, dict) and model.get("modelId") == current and model.get("name"):
            return str(model["name"])
    return str(current) if current else None


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Image(media_type=media_type, data=data):
            return {"type": "image", "mimeType": media_type, "data": data}


def _request(number: str, method: str, params: dict[str, Any]) -> bytes:
    return _line({"id": number, "method": method, "params": params})


def _refusal(method: str, number: Any) -> bytes:
    if method == "session/request_permission":
        return _line({"id": number, "result": {"outcome": {"outcome": "cancelled"}}})
    error = {"code": _NOT_OFFERED, "message": f"{method[:100]} is not offered here"}
    return _line({"id": number, "error": error})


def _line(message: dict[str, Any]) -> bytes:
    return to_line({"jsonrpc": "2.0", **message})
