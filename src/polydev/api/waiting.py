"""Waiting for a run on behalf of an HTTP client, who may go away meanwhile."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request

from polydev.core.outcomes import error_from
from polydev.core.runs import ActiveRun
from polydev.events import (
    Event,
    ReasoningDelta,
    Recorded,
    RunFinished,
    TextDelta,
    ToolCalled,
    UsageReported,
)


class Answer:
    """What a finished run said, gathered."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.usage = UsageReported(input_tokens=0, output_tokens=0)
        self.end: RunFinished | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text=text):
                self.text += text
            case ReasoningDelta(text=text):
                self.reasoning += text
            case UsageReported():
                self.usage = event
            case RunFinished():
                self.end = event


async def whole_answer(active: ActiveRun, request: Request) -> Answer:
    """Gathers the run's answer; cancels it when the client goes away.

    Raises the error that belongs to a run that ended badly.
    """
    answer = Answer()
    gone = _cancelled_when_gone(active, request)
    try:
        async for recorded in active.log.follow():
            answer.add(recorded.event)
    finally:
        gone.cancel()
        active.cancel()  # does nothing to a run that has finished
    assert answer.end is not None
    error = error_from(answer.end, active.run.provider)
    if error is not None:
        raise error
    return answer


async def first_words(active: ActiveRun, request: Request) -> AsyncIterator[Recorded]:
    """The run's events, once it has said something worth a response.

    Until the first words nothing has been sent, so a run that fails before them is answered with
    its own status: raises its error; a client that goes away meanwhile cancels it. The caller
    closes the iterator, which cancels the run.
    """
    events = active.log.follow()
    early: list[Recorded] = []
    gone = _cancelled_when_gone(active, request)
    try:
        async for recorded in events:
            early.append(recorded)
            event = recorded.event
            if isinstance(event, RunFinished):
                error = error_from(event, active.run.provider)
                if error is not None:
                    raise error
            if isinstance(event, TextDelta | ReasoningDelta | ToolCalled | RunFinished):
                break
    except BaseException:
        active.cancel()
        raise
    finally:
        gone.cancel()
    return _continued(active, early, events)


async def _continued(
    active: ActiveRun, early: list[Recorded], rest: AsyncIterator[Recorded]
) -> AsyncIterator[Recorded]:
    try:
        for recorded in early:
            yield recorded
        async for recorded in rest:
            yield recorded
    finally:
        active.cancel()


def _cancelled_when_gone(active: ActiveRun, request: Request) -> asyncio.Task[None]:
    gone = asyncio.create_task(_disconnected(request))
    gone.add_done_callback(lambda task: None if task.cancelled() else active.cancel())
    return gone


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
