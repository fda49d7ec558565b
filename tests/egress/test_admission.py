"""What a sandbox must not do, asked over real sockets."""

import asyncio
import json
import ssl

import httpx
import pytest
from structlog.testing import capture_logs

from polydev.models.egress import EgressMode, Exchange, Rule
from polydev.secret import Secret
from tests.egress.conftest import (
    HOST,
    INJECTING,
    OTHER_HOST,
    OURS,
    READING,
    RULES,
    SENTINEL,
    TOKEN,
    Place,
    World,
    listener,
    policy,
)
from tests.egress.upstream import Upstream

pytestmark = pytest.mark.anyio


def message(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert error["type"] == "polydev_egress"
    assert answer.headers["connection"] == "close"
    text: str = error["message"]
    return text


@pytest.fixture(params=READING)
async def reading(request: pytest.FixtureRequest, world: World) -> Place:
    return await world.place(request.param)


@pytest.fixture(params=INJECTING)
async def injecting(request: pytest.FixtureRequest, world: World) -> Place:
    return await world.place(request.param)


@pytest.fixture
async def tcp(world: World) -> Place:
    return await world.place("tcp")


BESIDE_THE_RULES = [
    ("POST", "/v1/organizations/keys"),  # key creation
    ("POST", "/token"),  # the token endpoint's path, on the wrong host
    ("GET", "/history"),
    ("DELETE", "/echo"),
    ("OPTIONS", "/echo"),
]

TRICKS = [
    "/echo/../status/200",
    "//echo",
    "/echo/%2e%2e/x",
    "/echo%2fx",
    "/echo/..%5cx",
    "/echo/%00",
    "/echo\\..\\x",
    "*",
    "http://127.0.0.1:9/echo",
    "https://x/echo",
    "/echo/./x",
]

NOT_HTTP = [
    b"garbage\r\n\r\n",
    b"GET /echo HTTP/1.1\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    (
        b"POST /echo HTTP/1.1\r\nHost: %h\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    b"POST /echo HTTP/1.1\r\nHost: %h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"POST /echo HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /echo HTTP/1.1\r\nHost: %h\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost : %h\r\n\r\n",
    b"GET /\xc3\xa9 HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


async def test_requests_beside_the_rules_are_refused_and_logged(
    reading: Place, upstream: Upstream
) -> None:
    with capture_logs() as logs:
        for method, path in BESIDE_THE_RULES:
            answer = await reading.http.request(method, path, content=b"x" * 300_000)
            assert answer.status_code == 403
            assert "not admitted" in message(answer)
        await _until(lambda: len(reading.binding.exchanges) == len(BESIDE_THE_RULES))
    assert upstream.seen == []
    assert all(e.refused and e.status == 403 for e in reading.binding.exchanges)
    told = [(e.method, e.host, e.path) for e in reading.binding.exchanges]
    assert told == [(method, HOST, path) for method, path in BESIDE_THE_RULES]
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert [(line["method"], line["host"], line["path"]) for line in warnings] == told
    assert {line["status"] for line in warnings} == {403}


async def test_path_tricks_never_reach_the_provider(reading: Place, upstream: Upstream) -> None:
    for target in TRICKS:
        answer = await reading.ask_raw(
            f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode()
        )
        assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")), target
    assert upstream.seen == []


async def test_what_is_not_http_is_answered_as_that(reading: Place, upstream: Upstream) -> None:
    for request in NOT_HTTP:
        answer = await reading.ask_raw(request.replace(b"%h", HOST.encode()))
        assert answer.split(b" ")[1] in (b"400", b"403", b"431", b"501", b"505"), request[:80]
    assert all(seen.body_bytes == 0 for seen in upstream.seen)


async def test_credentials_of_the_sandbox_are_replaced(
    injecting: Place, upstream: Upstream
) -> None:
    answer = await injecting.http.get(
        "/echo",
        headers={
            "x-api-key": SENTINEL.reveal(),
            "cookie": "made-up=1",
            "x-account": "another",
            "x-device": "another",
            "x-forwarded-for": "10.0.0.1",
            "proxy-connection": "keep-alive",
            "x-version": "kept",
        },
    )
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    [seen] = upstream.seen
    assert seen.header("authorization") == [f"Bearer {TOKEN.reveal()}"]
    assert seen.header("x-account") == ["made-up-account"]
    assert seen.header("x-version") == ["kept"]
    for name in ("x-api-key", "cookie", "x-device", "x-forwarded-for", "x-plan",
                 "proxy-connection"):  # fmt: skip
        assert seen.header(name) == []
    assert SENTINEL.reveal() not in str(seen.headers)


async def test_a_foreign_credential_is_refused(injecting: Place, upstream: Upstream) -> None:
    for name in ("authorization", "x-api-key", "x-goog-api-key", "api-key"):
        answer = await injecting.http.get("/echo", headers={name: "made-up-foreign"})
        assert answer.status_code == 403
        assert "foreign credential" in message(answer)
        assert "made-up-foreign" not in answer.text
    assert upstream.seen == []


async def test_a_credential_in_the_query_is_refused(injecting: Place, upstream: Upstream) -> None:
    answer = await injecting.http.get("/echo?key=made-up-foreign")
    assert answer.status_code == 403
    assert "made-up-foreign" not in answer.text
    assert upstream.seen == []


async def test_witness_passes_the_clis_own_credential(world: World, upstream: Upstream) -> None:
    place = await world.place("witness")
    await place.http.get("/echo", headers={"authorization": "Bearer made-up-own", "x-account": "a"})
    assert upstream.seen[0].header("authorization") == ["Bearer made-up-own"]
    assert upstream.seen[0].header("x-account") == ["a"]


async def test_without_a_token_the_sandbox_waits_for_none(world: World) -> None:
    place = await world.place("unix", connection_id="nobody")
    assert (await place.http.get("/echo")).status_code == 503
    await world.connect_credential("nobody", "made-up-late")
    assert (await place.http.get("/echo")).status_code == 200
    await world.egress.forget("nobody")
    assert (await place.http.get("/echo")).status_code == 503


async def test_two_peoples_requests_never_share_a_connection(
    world: World, upstream: Upstream
) -> None:
    await world.connect_credential("c2", "made-up-second")
    first, second = await world.place("unix"), await world.place("tcp", connection_id="c2")
    third = await world.place("connect")
    numbers = [
        (await place.http.get("/echo")).json()["connection"]
        for place in (first, second, third, second, first)
    ]
    assert numbers == [1, 2, 1, 2, 1]
    by_connection = {seen.connection: set(seen.header("authorization")) for seen in upstream.seen}
    assert by_connection == {1: {f"Bearer {TOKEN.reveal()}"}, 2: {"Bearer made-up-second"}}


async def test_forgetting_closes_kept_connections(world: World, upstream: Upstream) -> None:
    place = await world.place("unix")
    await place.http.get("/echo")
    await world.egress.forget("c1")
    async with asyncio.timeout(5):
        await upstream.closed.wait()
    await world.connect_credential()
    assert (await place.http.get("/echo")).json()["connection"] == 2


BAD_CONNECTS = [
    f"{HOST}:80",
    f"{HOST}:8443",
    "evil.test:443",
    "127.0.0.1:443",
    "169.254.169.254:443",
    "localhost:443",
    "[::1]:443",
    f"{HOST}.:443",
    "nonsense",
]


@pytest.mark.parametrize("way", ["connect", "tunnel"])
async def test_connect_reaches_admitted_hosts_only(
    world: World, upstream: Upstream, way: str
) -> None:
    place = await world.place(way)
    for target in BAD_CONNECTS:
        reader, writer = await place.bare()
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 403 "), target
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "polydev_egress"
    assert upstream.connections == 0
    assert all(e.method == "CONNECT" and e.refused for e in place.binding.exchanges)


async def test_an_ended_tls_connection_serves_its_own_host_only(
    world: World, upstream: Upstream
) -> None:
    place = await world.place("connect")
    answer = await place.ask_raw(f"GET /echo HTTP/1.1\r\nHost: {OTHER_HOST}\r\n{OURS}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403")
    assert upstream.seen == []


async def test_plain_http_needs_a_plain_host(world: World) -> None:
    place = await world.place("tcp", plain_host="")
    assert (await place.http.get("/echo")).status_code == 403
    tunnel = await world.place("tunnel")
    reader, writer = await tunnel.bare()
    writer.write(f"GET http://{HOST}/echo HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
    assert (await reader.read()).startswith(b"HTTP/1.1 403")
    writer.close()


async def test_the_absolute_form_reaches_admitted_hosts_by_tls(
    tcp: Place, upstream: Upstream
) -> None:
    reader, writer = await tcp.bare()
    writer.write(
        f"GET http://{OTHER_HOST}/echo HTTP/1.1\r\nHost: {OTHER_HOST}\r\n{OURS}\r\n".encode()
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert upstream.seen[0].header("host") == [OTHER_HOST]
    assert upstream.seen[0].target == "/echo"
    writer.close()


async def test_an_upgrade_without_a_rule_is_refused(tcp: Place, upstream: Upstream) -> None:
    answer = await tcp.ask_raw(
        f"GET /echo HTTP/1.1\r\nHost: {HOST}\r\n{OURS}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 403")
    assert upstream.seen == []


async def test_http_is_kept_right(tcp: Place, upstream: Upstream) -> None:
    head = await tcp.http.head("/echo")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "1234", b"")
    assert (await tcp.http.get("/status/204")).status_code == 204
    assert (await tcp.http.get("/status/304")).status_code == 304
    reader, writer = await tcp.raw()
    two = f"GET /echo/1 HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\nGET /echo/2 HTTP/1.1\r\nHost: {HOST}\r\n{OURS}"
    writer.write(two.encode() + b"Connection: close\r\n\r\n")  # pipelined
    both = await reader.read()
    assert both.count(b"HTTP/1.1 200") == 2
    assert both.index(b"/echo/1") < both.index(b"/echo/2")
    writer.close()
    upstream.gate.set()
    old = await tcp.ask_raw(f"GET /gated HTTP/1.0\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
    assert old.endswith(b"firstsecond")
    assert b"chunked" not in old.lower()


async def test_a_body_is_asked_for_when_it_waits_to_be(reading: Place) -> None:
    reader, writer = await reading.raw()
    head = f"POST /echo HTTP/1.1\r\nHost: {HOST}\r\n{OURS}Content-Length: 3\r\nExpect: 100-continue\r\n"
    writer.write(head.encode() + b"\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"abc")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_refused_body_is_not_asked_for(tcp: Place) -> None:
    head = (
        f"POST /no HTTP/1.1\r\nHost: {HOST}\r\n{OURS}Content-Length: 3\r\nExpect: 100-continue\r\n"
    )
    assert (await tcp.ask_raw(head.encode() + b"\r\n")).startswith(b"HTTP/1.1 403")


async def test_an_early_answer_arrives_before_the_body_ends(reading: Place) -> None:
    answer = await reading.http.post("/early", content=b"x" * 3_000_000)
    assert (answer.status_code, answer.content) == (413, b"too large")


async def test_a_connection_that_the_provider_closed_is_not_reused(reading: Place) -> None:
    for path in ("/close", "/echo", "/leave", "/echo", "/leave", "/echo"):
        assert (await reading.http.get(path)).status_code == 200


async def test_sandboxes_that_leave_at_once_harm_nobody(reading: Place) -> None:
    with capture_logs() as logs:
        for _ in range(50):
            reader, writer = await reading.raw()
            writer.write(f"GET /echo HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
            await reader.readuntil(b"}")
            writer.transport.abort()
        assert (await reading.http.get("/echo")).status_code == 200
    assert logs == []


async def test_a_sent_request_is_never_sent_again(reading: Place, upstream: Upstream) -> None:
    await reading.http.get("/echo")
    answer = await reading.http.post("/silent", content=b"once")
    assert answer.status_code == 502
    assert len([seen for seen in upstream.seen if seen.target == "/silent"]) == 1
    exchange = reading.binding.exchanges[-1]
    assert (exchange.status, bool(exchange.unreachable)) == (502, True)


async def test_a_flood_of_connections_is_bounded(world: World, tcp: Place) -> None:
    open_ones = [await tcp.bare() for _ in range(70)]
    refused = 0
    for reader, _ in open_ones[64:]:
        async with asyncio.timeout(5):
            refused += b"503" in await reader.read()
    assert refused == 6
    for _, writer in open_ones:
        writer.close()
    await _until_answers(tcp)


async def test_tokens_in_paths_do_not_reach_records(world: World) -> None:
    rules = (*RULES, Rule(method="GET", host=HOST, path="/x"))
    place = await world.place("tcp", policy=policy(EgressMode.INJECT, rules=rules))
    await place.http.get("/sk-ant-made-up-000000000000")
    await _until(lambda: bool(place.binding.exchanges))
    assert "made-up" not in place.binding.exchanges[-1].path


async def test_listeners_of_exchanges_are_told(world: World) -> None:
    told: list[Exchange] = []
    listening = listener()
    port = listening.getsockname()[1]
    async with await world.egress.bind(
        connection_id="c1",
        policy=policy(EgressMode.INJECT),
        listeners=[listening],
        sentinel=Secret("another-sentinel"),
        proxy=None,
        on_exchange=told.append,
    ):
        assert listening.fileno() == -1
        async with httpx.AsyncClient(trust_env=False) as http:
            http.headers["x-api-key"] = "another-sentinel"
            assert (await http.get(f"http://127.0.0.1:{port}/status/500")).status_code == 500
    assert [exchange.status for exchange in told] == [500]


async def test_a_sandbox_that_distrusts_us_is_logged(world: World) -> None:
    place = await world.place("connect")
    reader, writer = await place.bare()
    writer.write(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    with capture_logs() as logs:
        with pytest.raises(ssl.SSLError):
            await writer.start_tls(ssl.create_default_context(), server_hostname=HOST)
        await _until(lambda: bool(logs))
    assert logs[0]["host"] == HOST


async def _until(fact) -> None:
    async with asyncio.timeout(5):
        while not fact():
            await asyncio.sleep(0.005)


async def _until_answers(place: Place) -> None:
    async with asyncio.timeout(5):
        while (await place.http.get("/echo")).status_code != 200:
            pass
