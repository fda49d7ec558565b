"""What holds whatever way a sandbox takes through egress."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets
from structlog.testing import capture_logs

from polydev.models.egress import EgressMode
from tests.egress.conftest import HOST, OURS, SENTINEL, WAYS, Place, World
from tests.egress.upstream import Upstream

pytestmark = pytest.mark.anyio

BIG = 50 * 2**20


@pytest.fixture(params=list(WAYS))
async def place(
    request: pytest.FixtureRequest, world: World, upstream: Upstream
) -> AsyncIterator[Place]:
    place = await world.place(request.param)
    yield place
    _left_by_its_proxy(place, upstream)


@pytest.fixture(params=list(WAYS))
async def own_place(
    request: pytest.FixtureRequest, own_world: World, upstream: Upstream
) -> AsyncIterator[Place]:
    place = await own_world.place(request.param)
    yield place
    _left_by_its_proxy(place, upstream)


def _left_by_its_proxy(place: Place, upstream: Upstream) -> None:
    if place.proxy:
        assert upstream.connections <= len(place.proxy.asked)


async def test_an_admitted_request_is_answered(place: Place, upstream: Upstream) -> None:
    answer = await place.http.post("/echo?beta=true", content=b"hello")
    assert answer.status_code == 200
    assert answer.json()["target"] == "/echo?beta=true"
    assert upstream.seen[0].body == b"hello"
    assert upstream.seen[0].header("host") == [HOST]


async def test_connections_are_kept_alive(place: Place) -> None:
    numbers = [(await place.http.get("/echo")).json()["connection"] for _ in range(5)]
    assert numbers == [1] * 5


async def test_chunks_arrive_as_they_are_sent(place: Place, upstream: Upstream) -> None:
    async with place.http.stream("GET", "/gated") as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"first"
        upstream.gate.set()
        assert [chunk async for chunk in chunks] == [b"second"]


@pytest.mark.slow
async def test_bodies_of_both_directions_pass_in_constant_memory(
    own_place: Place, own_world: World, upstream: Upstream
) -> None:
    block = bytes(range(256)) * 256

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(BIG // len(block)):
            yield block

    await own_place.http.post("/echo", content=b"warm")
    before = _peak_bytes(own_world.egress.pid)
    answer = await own_place.http.post("/echo", content=blocks())
    expected = hashlib.sha256(block * (BIG // len(block))).hexdigest()
    assert (answer.json()["bytes"], answer.json()["sha256"]) == (BIG, expected)
    digest = hashlib.sha256()
    async with own_place.http.stream("GET", f"/big/{BIG}") as download:
        async for chunk in download.aiter_raw():
            digest.update(chunk)
    assert digest.hexdigest() == expected
    assert _peak_bytes(own_world.egress.pid) - before < 16 * 2**20


async def test_a_slow_reader_holds_the_provider_back(own_place: Place, own_world: World) -> None:
    before = _peak_bytes(own_world.egress.pid)
    reader, writer = await own_place.raw()
    writer.write(f"GET /big/{BIG} HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
    taken = 0
    async with asyncio.timeout(20):
        while taken < BIG:
            taken += len(await reader.read(4096 if taken < 2**20 else 2**20))
    writer.close()
    assert _peak_bytes(own_world.egress.pid) - before < 16 * 2**20


async def test_the_sandbox_going_away_aborts_the_request(place: Place, upstream: Upstream) -> None:
    reader, writer = await place.raw()
    writer.write(f"GET /hang HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
    async with asyncio.timeout(5):
        await upstream.arrived.wait()
        writer.transport.abort()
        await upstream.closed.wait()
    assert reader is not None


async def test_leaving_in_the_middle_of_an_answer_is_no_cut_of_the_providers(
    place: Place, upstream: Upstream
) -> None:
    reader, writer = await place.raw()
    writer.write(f"GET /gated HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
    async with asyncio.timeout(5):
        await reader.readuntil(b"first")
    with capture_logs() as logs:
        writer.transport.abort()
        await place.http.get("/status/200")  # by when egress knows
        await place.binding.close()
    assert [line["event"] for line in logs] == []
    upstream.gate.set()


async def test_the_binding_closing_aborts_the_request(place: Place, upstream: Upstream) -> None:
    _, writer = await place.raw()
    writer.write(f"GET /hang HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
    async with asyncio.timeout(5):
        await upstream.arrived.wait()
        await place.binding.close()
        await upstream.closed.wait()
    writer.transport.abort()
    with pytest.raises(OSError):
        await place.bare()


async def test_a_cut_answer_arrives_cut(place: Place) -> None:
    reader, writer = await place.raw()
    writer.write(f"GET /cut HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
    received = b""
    try:
        async with asyncio.timeout(5):
            while chunk := await reader.read(4096):
                received += chunk
    except OSError:
        pass
    writer.close()
    assert b"half" in received
    assert b"\r\n0\r\n\r\n" not in received


async def test_websocket_frames_pass_both_ways(place: Place, world: World) -> None:
    shown = {"x-api-key": SENTINEL.reveal()}
    if isinstance(place.address, Path):
        channel = websockets.unix_connect(
            str(place.address),
            uri=f"ws://{HOST}/ws",
            compression=None,
            additional_headers=shown,
        )
    elif place.way.connect:
        channel = websockets.connect(
            f"wss://{HOST}/ws",
            proxy=f"http://127.0.0.1:{place.address}",
            ssl=place.trust,
            additional_headers=shown,
        )
    else:
        channel = websockets.connect(
            f"ws://127.0.0.1:{place.address}/ws", proxy=None, additional_headers=shown
        )
    async with channel as socket:
        for message in (b"made-up", b"x" * 300_000, b""):
            await socket.send(message)
            assert await socket.recv() == message


async def test_a_refused_websocket_gets_the_providers_answer(place: Place) -> None:
    request = (
        f"GET /ws-refused HTTP/1.1\r\nHost: {HOST}\r\n{OURS}Connection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    reader, writer = await place.raw()
    writer.write(request.encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 426")
    assert await reader.readexactly(8) == b"use POST"
    writer.close()


async def test_what_passed_is_reported(place: Place) -> None:
    assert (await place.http.get("/status/429")).status_code == 429
    [exchange] = place.binding.exchanges
    assert (exchange.host, exchange.refused, exchange.unreachable) == (HOST, "", "")
    if place.way.mode is EgressMode.TUNNEL:
        assert (exchange.method, exchange.status) == ("CONNECT", 200)
    else:
        assert (exchange.method, exchange.path, exchange.status) == ("GET", "/status/429", 429)
        assert set(exchange.headers) == {("retry-after", "7"), ("x-limit-used", "1.0")}
        assert exchange.first_byte_seconds is not None


async def test_failing_answers_carry_what_keeps_a_cli_from_asking_again(place: Place) -> None:
    failed, fine = await place.http.get("/status/503"), await place.http.get("/echo")
    expected = None if place.way.mode is EgressMode.TUNNEL else "false"
    assert failed.headers.get("x-should-retry") == expected
    assert "x-should-retry" not in fine.headers


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")
