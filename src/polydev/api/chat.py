"""`POST /v1/chat/completions`, as OpenAI has it."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from polydev.api import problems, sse
from polydev.api.content import image_from_url, turns
from polydev.api.dependencies import CallerDependency, ServicesDependency
from polydev.api.parameters import ModelName, StopSequence, headers_for, ignored_parameters
from polydev.api.waiting import Answer, first_words, whole_answer
from polydev.core.catalogue import resolve_model
from polydev.core.outcomes import error_from
from polydev.core.runs import ActiveRun
from polydev.errors import InvalidRequest
from polydev.events import (
    EndReason,
    ReasoningDelta,
    Recorded,
    RunFinished,
    TextDelta,
    UsageReported,
)
from polydev.models.runs import Part, Prompt, RunRequest, Surface, Text

router = APIRouter()

_HARMLESS: dict[str, object] = {
    "n": 1,
    "user": ...,
    "store": False,
    "metadata": ...,
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "safety_identifier": ...,
    "prompt_cache_key": ...,
}
_FINISH_REASONS = {EndReason.LENGTH: "length", EndReason.REFUSAL: "content_filter"}


class TextContent(BaseModel):
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    url: str
    detail: str | None = None


class ImageContent(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


Content = Annotated[TextContent | ImageContent, Field(discriminator="type")]


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Content]
    name: str | None = None


class StreamOptions(BaseModel):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatRequest(BaseModel):
    """Fields beyond these are accepted, ignored and named in `polydev-ignored`."""

    model_config = ConfigDict(extra="allow")

    model: ModelName
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: StopSequence | Annotated[list[StopSequence], Field(max_length=16)] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)


@router.post("/v1/chat/completions", tags=["OpenAI"], responses=sse.DESCRIBED)
async def create_chat_completion(
    body: ChatRequest, request: Request, caller: CallerDependency, services: ServicesDependency
) -> Response:
    """Answers with `chat.completion`, or streams `chat.completion.chunk` when `stream` is true."""
    headers = headers_for(ignored_parameters(body, _HARMLESS), request)
    active = await services.runs.submit(caller, _run_request(body))
    headers["polydev-run-id"] = active.run.id
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = await first_words(active, request)
        return sse.EventStream(
            _chunks(active, events, body.model, include_usage=usage), headers, active.cancel
        )
    answer = await whole_answer(active, request)
    return JSONResponse(_completion(active, answer, body.model), headers=headers)


def _run_request(body: ChatRequest) -> RunRequest:
    model = resolve_model(body.model)
    system = [m for m in body.messages if m.role in ("system", "developer")]
    spoken = [m for m in body.messages if m.role in ("user", "assistant")]
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return RunRequest(
        provider=model.provider,
        prompt=Prompt(
            model=model.name,
            system="\n\n".join(_system_text(message) for message in system),
            turns=turns((message.role, _parts(message)) for message in spoken),
            max_tokens=body.max_completion_tokens or body.max_tokens,
        ),
        surface=Surface.CHAT,
        stop=stop,
    )


def _system_text(message: ChatMessage) -> str:
    parts = _parts(message)
    if any(not isinstance(part, Text) for part in parts):
        raise InvalidRequest("A system message holds an image; only text is possible there.")
    return "".join(part.text for part in parts if isinstance(part, Text))


def _parts(message: ChatMessage) -> tuple[Part, ...]:
    if isinstance(message.content, str):
        return (Text(text=message.content),)
    return tuple(
        Text(text=part.text)
        if isinstance(part, TextContent)
        else image_from_url(part.image_url.url)
        for part in message.content
    )


def _completion(active: ActiveRun, answer: Answer, model: str) -> dict[str, Any]:
    assert answer.end is not None
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    return {
        "id": f"chatcmpl-{active.run.id}",
        "object": "chat.completion",
        "created": int(active.run.created_at.timestamp()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": _FINISH_REASONS.get(answer.end.reason, "stop"),
            }
        ],
        "usage": _usage(answer.usage),
    }


async def _chunks(
    active: ActiveRun, events: AsyncIterator[Recorded], model: str, *, include_usage: bool
) -> AsyncIterator[bytes]:
    created = int(time.time())

    def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        return sse.data(
            {
                "id": f"chatcmpl-{active.run.id}",
                "object": "chat.completion.chunk",
                "created": created,
                "model": model,
                "choices": choices,
                **more,
            }
        )

    usage = UsageReported(input_tokens=0, output_tokens=0)
    yield chunk({"role": "assistant", "content": ""})
    async for recorded in events:
        match recorded.event:
            case TextDelta(text=text):
                yield chunk({"content": text})
            case ReasoningDelta(text=text):
                yield chunk({"reasoning_content": text})
            case UsageReported() as usage:
                pass
            case RunFinished() as end:
                error = error_from(end, active.run.provider)
                if error is not None:
                    yield sse.data(problems.body_of(error, problems.Format.OPENAI))
                    return
                yield chunk({}, _FINISH_REASONS.get(end.reason, "stop"))
                if include_usage:
                    yield chunk(None, usage=_usage(usage))
                yield b"data: [DONE]\n\n"
            case _:
                pass


def _usage(usage: UsageReported) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
