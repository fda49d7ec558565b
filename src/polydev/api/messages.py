"""`POST /v1/messages`, as Anthropic has it."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from polydev.api import problems, sse
from polydev.api.content import image, image_from_url, turns
from polydev.api.dependencies import CallerDependency, ServicesDependency
from polydev.api.parameters import ModelName, StopSequence, headers_for, ignored_parameters
from polydev.api.waiting import Answer, first_words, whole_answer
from polydev.core.catalogue import resolve_model
from polydev.core.outcomes import error_from
from polydev.core.runs import ActiveRun
from polydev.events import EndReason, Recorded, RunFinished, TextDelta, UsageReported
from polydev.models.runs import Part, Prompt, RunRequest, Surface, Text

router = APIRouter()

_HARMLESS: dict[str, object] = {
    "metadata": ...,
    "tools": [],
    "thinking": {"type": "disabled"},
    "temperature": 1,
    "service_tier": "auto",
}
_STOP_REASONS = {EndReason.LENGTH: "max_tokens", EndReason.REFUSAL: "refusal"}


class TextBlock(BaseModel):
    type: Literal["text"]
    text: str


class Base64Source(BaseModel):
    type: Literal["base64"]
    media_type: str
    data: str


class UrlSource(BaseModel):
    type: Literal["url"]
    url: str


class ImageBlock(BaseModel):
    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]


Block = Annotated[TextBlock | ImageBlock, Field(discriminator="type")]


class Message(BaseModel):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class MessagesRequest(BaseModel):
    """Fields beyond these are accepted, ignored and named in `polydev-ignored`."""

    model_config = ConfigDict(extra="allow")

    model: ModelName
    messages: list[Message] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    system: str | list[TextBlock] | None = None
    stream: bool | None = None
    stop_sequences: Annotated[list[StopSequence], Field(max_length=16)] | None = None


@router.post("/v1/messages", tags=["Anthropic"], responses=sse.DESCRIBED)
async def create_message(
    body: MessagesRequest,
    request: Request,
    caller: CallerDependency,
    services: ServicesDependency,
) -> Response:
    """Answers with a `message`, or streams its events when `stream` is true."""
    headers = headers_for(ignored_parameters(body, _HARMLESS), request)
    active = await services.runs.submit(caller, _run_request(body))
    headers["polydev-run-id"] = headers["request-id"] = active.run.id
    if body.stream:
        events = await first_words(active, request)
        return sse.EventStream(_stream(active, events, body.model), headers, active.cancel)
    answer = await whole_answer(active, request)
    return JSONResponse(_message(active, answer, body.model), headers=headers)


def _run_request(body: MessagesRequest) -> RunRequest:
    model = resolve_model(body.model)
    system = body.system or ""
    if not isinstance(system, str):
        system = "\n\n".join(block.text for block in system)
    return RunRequest(
        provider=model.provider,
        prompt=Prompt(
            model=model.name,
            system=system,
            turns=turns((message.role, parts_of(message)) for message in body.messages),
            max_tokens=body.max_tokens,
        ),
        surface=Surface.MESSAGES,
        stop=tuple(body.stop_sequences or ()),
    )


def parts_of(message: Message) -> tuple[Part, ...]:
    if isinstance(message.content, str):
        return (Text(text=message.content),)
    parts: list[Part] = []
    for block in message.content:
        match block:
            case TextBlock(text=text):
                parts.append(Text(text=text))
            case ImageBlock(source=Base64Source(media_type=media_type, data=data)):
                parts.append(image(media_type, data))
            case ImageBlock(source=UrlSource(url=url)):
                parts.append(image_from_url(url))
    return tuple(parts)


def _message(active: ActiveRun, answer: Answer, model: str) -> dict[str, Any]:
    assert answer.end is not None
    return {
        **_head(active, model),
        "content": [{"type": "text", "text": answer.text}] if answer.text else [],
        **_stop(answer.end),
        "usage": _usage(answer.usage),
    }


async def _stream(
    active: ActiveRun, events: AsyncIterator[Recorded], model: str
) -> AsyncIterator[bytes]:
    usage = UsageReported(input_tokens=0, output_tokens=0)
    start = {
        **_head(active, model),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(usage),
    }
    yield sse.event("message_start", {"type": "message_start", "message": start})
    open_block = False
    async for recorded in events:
        match recorded.event:
            case TextDelta(text=text):
                if not open_block:
                    open_block = True
                    yield _event(
                        "content_block_start", index=0, content_block={"type": "text", "text": ""}
                    )
                yield _event(
                    "content_block_delta", index=0, delta={"type": "text_delta", "text": text}
                )
            case UsageReported() as usage:
                pass
            case RunFinished() as end:
                error = error_from(end, active.run.provider)
                if error is not None:
                    yield sse.event("error", problems.body_of(error, problems.Format.ANTHROPIC))
                    return
                if open_block:
                    yield _event("content_block_stop", index=0)
                yield _event("message_delta", delta=_stop(end), usage=_usage(usage))
                yield _event("message_stop")
            case _:
                pass


def _event(name: str, **fields: Any) -> bytes:
    return sse.event(name, {"type": name, **fields})


def _head(active: ActiveRun, model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{active.run.id}",
        "type": "message",
        "role": "assistant",
        "model": model,
    }


def _stop(end: RunFinished) -> dict[str, Any]:
    if end.stop_sequence:
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_sequence}
    return {"stop_reason": _STOP_REASONS.get(end.reason, "end_turn"), "stop_sequence": None}


def _usage(usage: UsageReported) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens - usage.cached_input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }
