"""The stand-in for an API of OpenAI's kind, chat completions and responses, with an API key.

It serves the ACP agents that bring such a key along; which names it answers for is data below.
Errors have OpenAI's form `{"error": {message, type, param, code}}`. A used-up quota and a short
rate are both 429, told apart by `code`; the short one carries `retry-after`.
"""

import json
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polydev.sim.chatgpt_responses import events_of, turns_of
from polydev.sim.chatgpt_responses import prompt_of as responses_prompt
from polydev.sim.speech import Answer, Prompt, Tool, Turn, answer, pieces
from polydev.sim.state import Account, Minting, TokenPair, TokenRejected, Vendor, World
from polydev.sim.wire import EventStream, Fault, Frame, bearer, delay, fault, fields, server_event

PROVIDER = "qwen"
MODELS = ("gpt-6.1-sol", "gpt-5.6-luna", "qwen3-coder-plus", "qwen3.5-plus", "qwen3-max")
# The CLI puts what it adds itself in front of the person's words.
_SURROUNDINGS = ("<system-reminder>", "This is the Qwen Code.")


def routes(world: World) -> list[BaseRoute]:
    """What is answered on the vendor's hosts."""
    stand_in = _Completions(world)
    return [
        Route("/v1/chat/completions", stand_in.complete, methods=["POST"]),
        Route("/compatible-mode/v1/chat/completions", stand_in.complete, methods=["POST"]),
        Route("/v1/responses", stand_in.respond, methods=["POST"]),
        Route("/compatible-mode/v1/responses", stand_in.respond, methods=["POST"]),
        Route("/v1/models", stand_in.models, methods=["GET"]),
        Route("/compatible-mode/v1/models", stand_in.models, methods=["GET"]),
    ]


class _Completions:
    def __init__(self, world: World) -> None:
        self._world = world

    async def complete(self, request: Request) -> Response:
        body = await fields(request)
        account = await self._admitted(request, body, "messages")
        if isinstance(account, Response):
            return account
        said = answer(prompt_of(body))
        if not body.get("stream"):
            return JSONResponse(_whole(body, said))
        return self._streaming(account, _frames(body, said))

    async def respond(self, request: Request) -> Response:
        body = await fields(request)
        account = await self._admitted(request, body, "input")
        if isinstance(account, Response):
            return account
        if not body.get("stream"):
            text = "This stand-in gives responses as streams only."
            return _error(400, "invalid_request_error", text)
        most = body.get("max_output_tokens")
        said = answer(responses_prompt(body, turns_of(_said(body["input"]))))
        if isinstance(most, int) and 0 < most < len(said.chunks):
            said = replace(said, chunks=said.chunks[:most], text="".join(said.chunks[:most]))
        events = events_of(body, said)
        frames = [Frame(content=server_event(data), is_text=is_text) for data, is_text in events]
        return self._streaming(account, frames)

    async def _admitted(
        self, request: Request, body: Mapping[str, Any], needed: str
    ) -> Account | Response:
        """Whose request this is, or why it is not answered."""
        account = self._account(request)
        if isinstance(account, Response):
            return account
        await delay(self._world.knobs(account).first_byte_seconds)
        refused = self._refusal(account)
        if refused is not None:
            return refused
        if not isinstance(body.get(needed), list) or not body[needed]:
            return _error(400, "invalid_request_error", f"'{needed}' is a required property")
        model = str(body.get("model") or "")
        if model not in MODELS:
            text = f"The model `{model[:80]}` does not exist or you do not have access to it."
            return _error(404, "invalid_request_error", text, code="model_not_found")
        self._world.use_windows(account)
        return account

    def _streaming(self, account: Account, frames: list[Frame]) -> Response:
        headers = {"x-request-id": uuid.uuid4().hex}
        return EventStream(
            frames, knobs=self._world.knobs(account), account=account, headers=headers
        )

    async def models(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "sim"} for name in MODELS]
        return JSONResponse({"object": "list", "data": data})

    def _account(self, request: Request) -> Account | Response:
        try:
            return self._world.authenticate(PROVIDER, bearer(request))
        except TokenRejected as rejected:
            if rejected.reason == "missing":
                text = "You didn't provide an API key."
                return _error(401, "invalid_request_error", text)
            text = "Incorrect API key provided."
            return _error(401, "invalid_request_error", text, code="invalid_api_key")

    def _refusal(self, account: Account) -> Response | None:
        knobs = self._world.knobs(account)
        match fault(self._world, account):
            case Fault.SERVER_ERROR:
                text = "The server had an error while processing your request."
                return _error(knobs.server_error or 500, "server_error", text)
            case Fault.OVERLOADED:
                text = "The engine is currently overloaded, please try again later."
                return _error(503, "server_error", text)
            case Fault.RATE_LIMITED:
                return _error(
                    429,
                    "requests",
                    f"Rate limit reached. Please try again in {knobs.retry_after_seconds}s.",
                    code="rate_limit_exceeded",
                    headers={"retry-after": str(knobs.retry_after_seconds)},
                )
            case Fault.LIMIT_REACHED:
                return _error(
                    429,
                    "insufficient_quota",
                    "You exceeded your current quota, please check your plan and billing details.",
                    code="insufficient_quota",
                )
        return None


def prompt_of(body: Mapping[str, Any]) -> Prompt:
    """What a model would see of this request. Odd parts are passed over, never refused."""
    messages = [entry for entry in body.get("messages") or [] if isinstance(entry, dict)]
    system = [_text(entry) for entry in messages if entry.get("role") in ("system", "developer")]
    turns = [_turn(entry) for entry in messages if entry.get("role") not in ("system", "developer")]
    shape = (body.get("response_format") or {}).get("json_schema") or {}
    tools = [tool.get("function") for tool in body.get("tools") or [] if isinstance(tool, dict)]
    return Prompt(
        turns=tuple(turns),
        system="\n".join(system),
        schema=shape.get("schema"),
        tools=tuple(
            Tool(name=str(tool.get("name", "")), schema=tool.get("parameters") or {})
            for tool in tools
            if isinstance(tool, dict)
        ),
        thinking=True,
    )


def _turn(entry: Mapping[str, Any]) -> Turn:
    parts = _parts(entry)
    images = sum(1 for part in parts if part.get("type") == "image_url")
    match entry.get("role"):
        case "assistant":
            return Turn(role="assistant", text=_text(entry), images=images)
        case "tool":
            return Turn(role="tool", text=_text(entry))
    texts = [str(part.get("text") or "") for part in parts if part.get("type") == "text"]
    own = [text for text in texts if not text.lstrip().startswith(_SURROUNDINGS)]
    if texts and not own and not images:
        return Turn(role="system", text=texts[-1])
    return Turn(role="user", text="".join(own), images=images)


def _said(items: list[Any]) -> list[Any]:
    """The input of a response without what the CLI adds in front of the person's words."""
    kept = []
    for item in items:
        content = item.get("content") if isinstance(item, dict) else None
        if isinstance(content, list):
            own = [
                part
                for part in content
                if isinstance(part, dict)
                and not str(part.get("text") or "").lstrip().startswith(_SURROUNDINGS)
            ]
            kept.append({**item, "content": own})
        else:
            kept.append(item)
    return kept


def _parts(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = entry.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part for part in content or [] if isinstance(part, dict)]


def _text(entry: Mapping[str, Any]) -> str:
    return "".join(str(part.get("text") or "") for part in _parts(entry))


def _within(body: Mapping[str, Any], said: Answer) -> tuple[tuple[str, ...], str]:
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    if isinstance(most, int) and 0 < most < len(said.chunks):
        return said.chunks[:most], "length"
    return said.chunks, "tool_calls" if said.call is not None else "stop"


def _whole(body: Mapping[str, Any], said: Answer) -> dict[str, Any]:
    chunks, reason = _within(body, said)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(chunks) or None}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.call is not None:
        message["tool_calls"] = [_call(said)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    shell = _shell(body, "chat.completion")
    return {**shell, "choices": [choice], "usage": _usage(said, len(chunks))}


def _frames(body: Mapping[str, Any], said: Answer) -> list[Frame]:
    chunks, reason = _within(body, said)
    shell = _shell(body, "chat.completion.chunk")

    def frame(delta: dict[str, Any], finish: str | None = None, *, text: bool = False) -> Frame:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        event = {**shell, "choices": [choice]}
        return Frame(content=server_event(event, named=False), is_text=text)

    frames = [frame({"role": "assistant", "content": ""})]
    frames += [frame({"reasoning_content": piece}) for piece in pieces(said.reasoning)]
    frames += [frame({"content": chunk}, text=True) for chunk in chunks]
    if said.call is not None:
        frames.append(frame({"tool_calls": [{"index": 0, **_call(said)}]}))
    frames.append(frame({}, reason))
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = {**shell, "choices": [], "usage": _usage(said, len(chunks))}
        frames.append(Frame(content=server_event(usage, named=False)))
    frames.append(Frame(content=b"data: [DONE]\n\n"))
    return frames


def _call(said: Answer) -> dict[str, Any]:
    assert said.call is not None
    function = {"name": said.call.name, "arguments": json.dumps(said.call.arguments)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _shell(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:24]}",
        "object": kind,
        "created": round(datetime.now(UTC).timestamp()),
        "model": body.get("model"),
    }


def _usage(said: Answer, written: int) -> dict[str, Any]:
    thought = len(pieces(said.reasoning))
    output = max(1, written) + thought
    return {
        "prompt_tokens": said.input_tokens,
        "completion_tokens": output,
        "total_tokens": said.input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def _error(
    status: int,
    kind: str,
    text: str,
    *,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    error = {"message": text, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status, headers=headers)


def _mint(minting: Minting) -> str:
    return f"sk-made-up-{minting.serial}-{secrets.token_urlsafe(32)}"


def _file(_account: Account, pair: TokenPair) -> str:
    """An environment file: the CLI has no credential file of its own for API keys."""
    return f"OPENAI_API_KEY={pair.access.value}\n"


VENDOR = Vendor(
    provider=PROVIDER,
    hosts=(
        "api.openai.com",
        "coding-intl.dashscope.aliyuncs.com",
        "dashscope-intl.aliyuncs.com",
    ),
    credential_path="qwen/.env",
    rotates_refresh_tokens=False,
    plan="coding-plan",
    windows={"requests_per_month": 30 * 86400},
    mint=_mint,
    credential=_file,
    routes=routes,
)
