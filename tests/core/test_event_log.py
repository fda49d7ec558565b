import asyncio

import pytest

from polydev.core.event_log import EventLog
from polydev.events import (
    EndReason,
    ReasoningDelta,
    Recorded,
    RunFinished,
    RunStarted,
    TextDelta,
    UsageReported,
)
from polydev.providers.base import finished

pytestmark = pytest.mark.anyio

END = finished(EndReason.STOP)


async def _next_turn() -> None:
    """Until callbacks that were due are run."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


def _texts(log: EventLog) -> list[str]:
    return [r.event.text for r in log.records if isinstance(r.event, TextDelta)]


async def test_numbers_start_at_one_and_have_no_gaps():
    told: list[Recorded] = []
    log = EventLog(told.append)
    log.append(RunStarted(model="m"))
    log.append(TextDelta(text="a"))
    log.append(UsageReported(input_tokens=1, output_tokens=2))
    log.append(END)
    assert [record.number for record in log.records] == [1, 2, 3, 4]
    assert tuple(told) == log.records


async def test_deltas_of_one_turn_become_one_event():
    log = EventLog()
    log.append(TextDelta(text="a"))
    log.append(TextDelta(text="b"))
    assert log.records == ()
    await _next_turn()
    assert _texts(log) == ["ab"]
    log.append(TextDelta(text="c"))
    await _next_turn()
    assert _texts(log) == ["ab", "c"]


async def test_text_and_reasoning_stay_apart_and_in_order():
    log = EventLog()
    log.append(ReasoningDelta(text="hm"))
    log.append(TextDelta(text="a"))
    log.append(ReasoningDelta(text="so"))
    log.append(END)
    assert [record.event.type for record in log.records] == [
        "reasoning.delta",
        "text.delta",
        "reasoning.delta",
        "run.finished",
    ]


async def test_what_was_held_back_comes_before_the_end():
    log = EventLog()
    log.append(TextDelta(text="last words"))
    log.append(END)
    assert [record.event for record in log.records] == [TextDelta(text="last words"), END]


async def test_nothing_follows_the_end():
    log = EventLog()
    log.append(END)
    log.append(TextDelta(text="late"))
    log.append(finished(EndReason.CANCELLED))
    await _next_turn()
    assert [record.event for record in log.records] == [END]
    assert log.finished


async def test_readers_begin_anywhere_and_all_see_the_same():
    log = EventLog()

    async def read(after: int) -> list[Recorded]:
        return [record async for record in log.follow(after)]

    early = [asyncio.create_task(read(after)) for after in (0, 1, 5, -3)]
    await _next_turn()
    for text in "abc":
        log.append(TextDelta(text=text))
        await _next_turn()
    late = asyncio.create_task(read(2))
    log.append(END)
    whole = list(log.records)
    assert len(whole) == 4
    async with asyncio.timeout(5):
        assert [await task for task in early] == [whole, whole[1:], [], whole]
        assert await late == whole[2:]
        assert await read(4) == []
        assert await read(99) == []


async def test_a_reader_that_leaves_disturbs_nobody():
    log = EventLog()

    async def read() -> None:
        async for _ in log.follow():
            pass

    reading = asyncio.create_task(read())
    await _next_turn()
    reading.cancel()
    await asyncio.wait({reading})
    log.append(END)
    async with asyncio.timeout(5):
        assert isinstance((await anext(log.follow())).event, RunFinished)
        assert await log.wait_finished() == END
