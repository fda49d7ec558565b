"""`/v1/runs`: the native surface. A run here goes on when its client goes away."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from polydev.api import problems, sse
from polydev.api.content import turns
from polydev.api.dependencies import CallerDependency, ServicesDependency, caller, services
from polydev.api.messages import Message, parts_of
from polydev.api.parameters import ModelName, StopSequence
from polydev.core.catalogue import resolve_model
from polydev.errors import InvalidRequest, PolydevError
from polydev.events import EndReason, Recorded, event_to_dict
from polydev.models.runs import Prompt, Run, RunRequest, RunState, Surface

router = APIRouter()


class RunSubmission(BaseModel):
    """Either `prompt`, one question, or `messages`, a list of turns ending with a question."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName
    prompt: str | None = None
    messages: list[Message] | None = None
    system: str = ""
    stop: Annotated[list[StopSequence], Field(max_length=16)] = []
    max_tokens: int | None = Field(None, ge=1)
    timeout_seconds: float | None = Field(None, gt=0)
    connection: str | None = None


class UsageRecord(BaseModel):
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int


class RunRecord(BaseModel):
    """A run's state; its texts are in its events."""

    id: str
    object: Literal["run"] = "run"
    provider: str
    model: str
    connection: str
    surface: Surface
    state: RunState
    reason: EndReason | None
    message: str
    retry_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    usage: UsageRecord | None


@router.post("/v1/runs", status_code=202, tags=["Runs"])
async def create_run(
    body: RunSubmission, caller: CallerDependency, services: ServicesDependency
) -> RunRecord:
    """Admits a run and answers at once; its events are at `/v1/runs/{id}/events`."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Send either `prompt` or `messages`.")
    messages = body.messages or [Message(role="user", content=body.prompt or "")]
    model = resolve_model(body.model)
    request = RunRequest(
        provider=model.provider,
        prompt=Prompt(
            model=model.name,
            system=body.system,
            turns=turns((message.role, parts_of(message)) for message in messages),
            max_tokens=body.max_tokens,
        ),
        surface=Surface.NATIVE,
        stop=tuple(body.stop),
        timeout_seconds=body.timeout_seconds,
        connection_id=body.connection,
    )
    active = await services.runs.submit(caller, request)
    return record(active.run)


@router.get("/v1/runs", tags=["Runs"])
async def list_runs(
    caller: CallerDependency,
    services: ServicesDependency,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> list[RunRecord]:
    """The caller's latest runs, newest first."""
    return [record(run) for run in await services.runs.latest(caller, limit)]


@router.get("/v1/runs/{run_id}", tags=["Runs"])
async def read_run(
    run_id: str, caller: CallerDependency, services: ServicesDependency
) -> RunRecord:
    return record(await services.runs.get(caller, run_id))


@router.get("/v1/runs/{run_id}/prompt", tags=["Runs"])
async def read_prompt(
    run_id: str, caller: CallerDependency, services: ServicesDependency
) -> Prompt:
    """What the run was asked, for as long as texts are kept."""
    return await services.runs.prompt(caller, run_id)


@router.delete("/v1/runs/{run_id}", tags=["Runs"])
async def cancel_run(
    run_id: str, caller: CallerDependency, services: ServicesDependency
) -> RunRecord:
    """Stops the run if it is still going; answers with what it is then."""
    return record(await services.runs.cancel(caller, run_id))


@router.get(
    "/v1/runs/{run_id}/events",
    tags=["Runs"],
    response_class=StreamingResponse,
    responses=sse.DESCRIBED,
)
async def stream_events(
    run_id: str,
    caller: CallerDependency,
    services: ServicesDependency,
    last_event_id: Annotated[str | None, Header()] = None,
    after: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """The run's events as server-sent events, from the beginning or after `Last-Event-ID`."""
    if last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 19:
        after = int(last_event_id)
    events = await services.runs.events(caller, run_id, after)
    return sse.EventStream(_lines(events), {"polydev-run-id": run_id})


@router.websocket("/v1/runs/{run_id}/events")
async def watch_events(socket: WebSocket, run_id: str, after: int = 0) -> None:
    """The same events, one JSON text message each; closed with 1000 after the last."""
    try:
        events = await services(socket).runs.events(caller(socket), run_id, max(0, after))
    except PolydevError as error:
        body = problems.body_of(error, problems.Format.NATIVE)
        await socket.send_denial_response(JSONResponse(body, status_code=error.status))
        return
    await socket.accept()
    try:
        async for recorded in events:
            await socket.send_json(_fields(recorded))
        await socket.close()
    except WebSocketDisconnect:
        return  # its reader left; the run goes on


async def _lines(events: AsyncIterator[Recorded]) -> AsyncIterator[bytes]:
    async for recorded in events:
        fields = _fields(recorded)
        yield sse.event(fields["type"], fields, number=recorded.number)


def _fields(recorded: Recorded) -> dict[str, Any]:
    fields = event_to_dict(recorded.event)
    return {"number": recorded.number, "at": recorded.at.isoformat(), **fields}


def record(run: Run) -> RunRecord:
    usage = run.usage
    return RunRecord(
        id=run.id,
        provider=run.provider,
        model=run.model,
        connection=run.connection_id,
        surface=run.surface,
        state=run.state,
        reason=run.reason,
        message=run.message,
        retry_at=run.retry_at,
        created_at=run.created_at,
        started_at=run.started_at,
        first_token_at=run.first_token_at,
        finished_at=run.finished_at,
        usage=None
        if usage is None
        else UsageRecord(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        ),
    )
