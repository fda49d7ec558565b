"""How long a run waits for its CLI, and what ends the wait early."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from polydev.core.patience import Patience
from polydev.events import EndReason, RunFinished
from polydev.models.egress import ASKED_ALREADY, Exchange
from polydev.providers.acp import GEMINI, QWEN, AcpProvider

pytestmark = pytest.mark.anyio


def exchange(
    status: int, *, refused: str = "", path: str = "/v1/chat/completions", **headers: str
) -> Exchange:
    return Exchange(
        binding="b",
        method="POST",
        host="coding-intl.dashscope.aliyuncs.com",
        path=path,
        status=status,
        refused=refused,
        headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()),
    )


async def silence() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def speech(*lines: bytes) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


def patience(silence_seconds: float = 60) -> Patience:
    return Patience(AcpProvider(QWEN), silence_seconds)


async def waited_out(waiting: Patience) -> RunFinished:
    async with asyncio.timeout(5):
        end = await waiting.next(silence())
    assert isinstance(end, RunFinished)
    return end


async def test_lines_come_as_they_are_and_their_end_is_none():
    waiting, lines = patience(), speech(b"one", b"two")
    assert [await waiting.next(lines) for _ in range(3)] == [b"one", b"two", None]


async def test_silence_has_an_end():
    end = await waited_out(patience(0.01))
    assert end.reason is EndReason.CLI_FAILED
    assert "0.01 s" in end.message


async def test_a_failure_that_would_be_repeated_ends_a_wait_that_is_under_way():
    waiting = patience()
    wait = asyncio.create_task(waited_out(waiting))
    await asyncio.sleep(0)
    waiting.saw(exchange(429, retry_after="7"))
    end = await wait
    assert end.reason is EndReason.RATE_LIMITED
    assert "429" in end.message
    assert end.retry_at is not None
    assert timedelta(0) < end.retry_at - datetime.now(UTC) <= timedelta(seconds=7)


async def test_the_cli_has_a_moment_to_say_it_in_its_own_words():
    waiting = patience()
    waiting.saw(exchange(429))
    assert await waiting.next(speech(b"its own words")) == b"its own words"
    assert (await waited_out(waiting)).reason is EndReason.WINDOW_EXHAUSTED


async def test_lines_do_not_lengthen_that_moment():
    waiting = patience()
    waiting.saw(exchange(503))

    async def chatter() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05)
            yield b"still here"

    lines = chatter()
    async with asyncio.timeout(5):
        while not isinstance(line := await waiting.next(lines), RunFinished):
            assert line == b"still here"
    assert line.reason is EndReason.PROVIDER_ERROR


async def test_a_cli_that_asked_again_is_not_waited_for():
    waiting = patience()
    waiting.saw(exchange(200))
    waiting.saw(exchange(403, refused=ASKED_ALREADY))
    end = await waited_out(waiting)
    assert end.reason is EndReason.PROVIDER_ERROR
    assert "again" in end.message


@pytest.mark.parametrize(
    "seen",
    [
        exchange(200),
        exchange(401),
        exchange(403, refused="this host is not admitted here"),
        exchange(503, path="/v1/models"),
    ],
)
async def test_nothing_else_shortens_the_wait(seen: Exchange):
    waiting = patience(0.01)
    waiting.saw(seen)
    assert "said nothing" in (await waited_out(waiting)).message


async def test_a_cli_that_does_not_repeat_is_let_speak():
    waiting = Patience(AcpProvider(GEMINI), 0.01)
    waiting.saw(
        Exchange(
            binding="b",
            method="POST",
            host="cloudcode-pa.googleapis.com",
            path="/v1internal:streamGenerateContent",
            status=503,
        )
    )
    assert "said nothing" in (await waited_out(waiting)).message
