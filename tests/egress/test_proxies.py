"""Outbound proxies: everything leaves through them, and nothing does when they fail."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydev.authority import Authority
from polydev.config import EgressSettings
from polydev.egress import dial, stream
from polydev.egress.dial import Dialer, check_name
from polydev.egress.proxies import open_tunnel
from polydev.egress.refusal import ProxyFailed, Refused
from polydev.errors import EgressProblem
from polydev.models.egress import EgressMode, Exchange, Rule
from polydev.models.proxies import Proxy
from tests.egress.conftest import HOST, OTHER_HOST, World, Worlds, policy, proxy_at
from tests.egress.proxying import ADDS, BABBLES, HANGS, LEAVES, REFUSES, LittleProxy
from tests.egress.test_dial import PRIVATE
from tests.egress.upstream import Front, Upstream

pytestmark = pytest.mark.anyio

KINDS = ("http", "https", "socks5")
LOGIN = ("made-up-user", "made-up-p@ss:word")
# Only a proxy can tell where this is: whoever goes directly gets nowhere.
NOWHERE = "nowhere.provider.test:443"


@pytest.fixture
async def far(world_of: Worlds, upstream_authority: tuple[Authority, Path]) -> AsyncIterator[World]:
    """A world whose upstream is out of reach but for a proxy that knows where it is."""
    settings = EgressSettings(redirect=NOWHERE, upstream_ca=upstream_authority[1])
    async with world_of(settings) as world:
        yield world


@contextlib.asynccontextmanager
async def little(world: World, kind: str, **changes: Any) -> AsyncIterator[LittleProxy]:
    target = ("127.0.0.1", world.upstream.port)
    async with world.proxy(kind, target=target, **changes) as proxy:
        yield proxy


async def failed(world: World, proxy: Proxy, way: str = "tcp") -> Exchange:
    """How a request through a proxy that fails was reported; nothing has reached upstream."""
    place = await world.place(way, proxy=proxy)
    if way == "tunnel":
        reader, writer = await place.bare()
        writer.write(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
        assert int((await reader.readline()).split()[1]) in (502, 504)
        writer.close()
    else:
        answer = await place.http.get("/echo")
        assert answer.status_code in (502, 504)
        assert "outbound proxy" in answer.text
    [exchange] = place.binding.exchanges
    assert exchange.proxy_failed
    assert "the outbound proxy" in exchange.unreachable
    for secret in (*LOGIN, proxy.host, str(proxy.port)):
        assert secret not in exchange.unreachable
    assert world.upstream.connections == 0
    return exchange


@pytest.mark.parametrize("login", [None, LOGIN, ("only-a-user", "")])
@pytest.mark.parametrize("kind", KINDS)
async def test_requests_leave_through_the_proxy(
    far: World, kind: str, login: tuple[str, str] | None
) -> None:
    async with little(far, kind, login=login) as proxy:
        address = proxy.address
        if login:
            named = ":".join(quote(part, safe="") for part in login)
            address = f"{kind}://{named}@{address.rpartition('@')[2]}"
        place = await far.place("tcp", proxy=proxy_at(address))
        numbers = [(await place.http.get("/echo")).json()["connection"] for _ in range(3)]
        assert numbers == [1, 1, 1]
        assert proxy.asked == [("nowhere.provider.test", 443)]
        assert proxy.logins == ([login] if login else [])


@pytest.mark.parametrize("redirect", ["127.0.0.1:{}", "[::1]:{}", "localhost:{}"])
@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_the_proxy_is_asked_for_the_redirect_however_it_is_written(
    world_of: Worlds,
    upstream: Upstream,
    upstream_authority: tuple[Authority, Path],
    kind: str,
    redirect: str,
) -> None:
    settings = EgressSettings(
        redirect=redirect.format(upstream.port), upstream_ca=upstream_authority[1]
    )
    async with world_of(settings) as world:
        async with little(world, kind) as proxy:
            place = await world.place("tcp", proxy=proxy_at(proxy.address))
            assert (await place.http.get("/echo")).status_code == 200
            [(host, port)] = proxy.asked
            assert port == upstream.port
            assert host in (
                "127.0.0.1",
                "::1",
                "localhost",
                "0000:0000:0000:0000:0000:0000:0000:0001",
            )


@pytest.mark.parametrize("way", ["tcp", "tunnel"])
@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_without_a_redirect_the_name_goes_to_the_proxy_unresolved(
    world_of: Worlds,
    upstream_authority: tuple[Authority, Path],
    kind: str,
    way: str,
) -> None:
    settings = EgressSettings(upstream_ca=upstream_authority[1])
    async with world_of(settings) as world:
        async with little(world, kind) as proxy:
            place = await world.place(way, proxy=proxy_at(proxy.address))
            assert (await place.http.get("/echo")).status_code == 200
            assert proxy.asked == [(HOST, 443)]


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "127.1", "localhost"])
@pytest.mark.parametrize("way", ["tcp", "tunnel"])
async def test_a_proxy_is_never_asked_for_a_private_address(
    world_of: Worlds, host: str, way: str
) -> None:
    async with world_of(EgressSettings()) as world:
        async with little(world, "http") as proxy:
            mode = EgressMode.TUNNEL if way == "tunnel" else EgressMode.INJECT
            rules = (Rule(method="GET", host=host, path="/.*"),)
            place = await world.place(
                way,
                proxy=proxy_at(proxy.address),
                policy=policy(mode, rules=rules, plain_host=host),
            )
            reader, writer = await place.bare()
            line = f"CONNECT {host}:443" if way == "tunnel" else "GET /x"
            shown = "X-Api-Key: made-up-sentinel\r\n"
            writer.write(f"{line} HTTP/1.1\r\nHost: {host}\r\n{shown}\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 403")
            assert b"not public" in answer
            assert proxy.asked == []


@pytest.mark.parametrize(
    "host", [*PRIVATE[:-2], "127.1", "2130706433", "0x7f.1", "a.localhost", "1.2.3.4.5"]
)
def test_names_of_no_public_host_are_known(host: str) -> None:
    with pytest.raises(Refused):
        check_name(host)


@pytest.mark.parametrize("host", [HOST, "8.8.8.8", "2606:4700::1111", "0x.example", "1.example"])
def test_names_of_public_hosts_are_known(host: str) -> None:
    check_name(host)


@pytest.mark.parametrize("way", ["tcp", "tunnel"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("does", "words"),
    [
        (REFUSES, "did not connect to"),
        (BABBLES, "did not answer as one"),
        (LEAVES, "closed the connection"),
        (ADDS, "did not answer as one"),
    ],
)
async def test_a_proxy_that_does_not_connect_is_named(
    world: World, kind: str, does: str, words: str, way: str
) -> None:
    """Upstream could be reached directly here, and is not."""
    async with world.proxy(kind, does=does) as proxy:
        exchange = await failed(world, proxy_at(proxy.address), way)
        assert words in exchange.unreachable


@pytest.mark.parametrize("shown", [None, ("made-up-user", "wrong")])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_that_knows_no_such_user_is_named(
    world: World, kind: str, shown: tuple[str, str] | None
) -> None:
    async with world.proxy(kind, login=shown) as proxy:
        address = proxy.address
        proxy.login = LOGIN
        exchange = await failed(world, proxy_at(address))
        assert "user and" in exchange.unreachable
        assert proxy.asked == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_that_is_not_there_is_named(world: World, kind: str) -> None:
    async with world.proxy(kind) as proxy:
        address = proxy.address
    exchange = await failed(world, proxy_at(address))
    assert "cannot be reached" in exchange.unreachable


async def test_a_proxy_whose_certificate_is_not_trusted_is_named(
    world: World, tmp_path: Path
) -> None:
    other = Authority.load_or_create(tmp_path / "other", "somebody else")
    async with LittleProxy("https", context=other.server_context("localhost")) as proxy:
        exchange = await failed(world, proxy_at(proxy.address))
        assert "certificate" in exchange.unreachable


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_cannot_stand_in_for_the_provider(
    far: World, upstream_authority: tuple[Authority, Path], kind: str
) -> None:
    """What it connects to shows a certificate that is good, and another's."""
    front = Front(authority=upstream_authority[0], hosts=(OTHER_HOST,))
    async with front, Upstream(front) as other:
        async with far.proxy(kind, target=("127.0.0.1", other.port)) as proxy:
            exchange = await failed(far, proxy_at(proxy.address))
            assert f"certificate shown for {HOST}" in exchange.unreachable
            assert other.seen == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_that_hangs_is_waited_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, upstream_authority: tuple[Authority, Path], kind: str
) -> None:
    monkeypatch.setattr(dial, "_PROXY_SECONDS", 0.2)
    context = upstream_authority[0].server_context("localhost") if kind == "https" else None
    dialer = Dialer(redirect=NOWHERE, upstream_ca=upstream_authority[1])
    async with LittleProxy(kind, does=HANGS, context=context) as proxy:
        async with asyncio.timeout(10):
            with pytest.raises(ProxyFailed) as caught:
                await dialer.dial(HOST, proxy_at(proxy.address))
            await proxy.hanging.wait()
    assert caught.value.status == 504
    assert "in time" in caught.value.reason


async def test_a_tunnel_that_leads_to_silence_is_waited_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, upstream_authority: tuple[Authority, Path]
) -> None:
    monkeypatch.setattr(stream, "_HANDSHAKE_SECONDS", 0.2)
    dialer = Dialer(redirect=NOWHERE, upstream_ca=upstream_authority[1])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with LittleProxy("http", target=silent.getsockname()) as proxy:
            async with asyncio.timeout(10):
                with pytest.raises(ProxyFailed, match=f"{HOST} through the outbound proxy"):
                    await dialer.dial(HOST, proxy_at(proxy.address))


async def test_a_proxy_that_dies_in_the_middle_of_an_answer_is_no_direct_connection(
    world: World,
) -> None:
    async with little(world, "socks5") as proxy:
        place = await world.place("tcp", proxy=proxy_at(proxy.address))
        hanging = asyncio.create_task(place.http.get("/hang"))
        async with asyncio.timeout(10):
            await world.upstream.arrived.wait()
    answer = await hanging
    assert answer.status_code == 502
    [exchange] = place.binding.exchanges
    assert "through the outbound proxy" in exchange.unreachable
    assert (await place.http.get("/echo")).status_code == 502
    assert world.upstream.connections == 1


async def test_after_a_change_nothing_leaves_by_the_earlier_proxy(far: World) -> None:
    async with little(far, "http") as first, little(far, "socks5") as second:
        place = await far.place("tcp", proxy=proxy_at(first.address))
        assert (await place.http.get("/echo")).json()["connection"] == 1
        await far.egress.set_proxy("c1", proxy_at(second.address))
        assert (await place.http.get("/echo")).json()["connection"] == 2
        await far.egress.set_proxy("c1", None)
        assert (await place.http.get("/echo")).status_code in (502, 504)  # directly is nowhere
        assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_what_was_under_way_at_a_change_is_not_used_again(far: World) -> None:
    async with little(far, "http") as first, little(far, "http") as second:
        place = await far.place("tcp", proxy=proxy_at(first.address))
        async with place.http.stream("GET", "/gated") as answer:
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"first"
            await far.egress.set_proxy("c1", proxy_at(second.address))
            far.upstream.gate.set()
            assert [chunk async for chunk in chunks] == [b"second"]
        assert (await place.http.get("/echo")).json()["connection"] == 2
        assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_bindings_of_one_connection_by_two_proxies_share_no_connection(far: World) -> None:
    async with little(far, "http") as first, little(far, "http") as second:
        for number, proxy in enumerate((first, second, first, second)):
            place = await far.place("tcp", proxy=proxy_at(proxy.address))
            seen = (await place.http.get("/echo")).json()["connection"]
            assert seen == number % 2 + 1
        assert (len(first.asked), len(second.asked)) == (1, 1)


class _Fed:
    """What a proxy sends, in pieces; then it hangs up."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent = b""

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def write(self, data: bytes) -> None:
        self.sent += data


def _tunnel(proxy: Proxy, pieces: list[bytes]) -> str:
    """Empty, or how the proxy failed. Nothing of it waits."""
    try:
        open_tunnel(_Fed(pieces), proxy, HOST, 443).send(None)
    except StopIteration:
        return ""
    except ProxyFailed as failure:
        return failure.reason
    raise AssertionError("it waits for something else")


def _cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(one % (len(data) + 1) for one in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


cuts = st.lists(st.integers(0, 1000), max_size=8)
BOUND = st.one_of(
    st.binary(min_size=6, max_size=6).map(lambda rest: b"\x01" + rest),
    st.binary(min_size=18, max_size=18).map(lambda rest: b"\x04" + rest),
    st.binary(max_size=255).map(lambda name: bytes([3, len(name)]) + name + b"\x00\x50"),
)


@given(BOUND, st.booleans(), cuts)
def test_socks_replies_are_read_however_they_are_cut(
    bound: bytes, login: bool, at: list[int]
) -> None:
    greeting = b"\x05\x02\x01\x00" if login else b"\x05\x00"
    whole = greeting + b"\x05\x00\x00" + bound
    proxy = proxy_at("socks5://u:p@h:1")
    assert _tunnel(proxy, _cut(whole, at)) == ""
    assert "did not answer as one" in _tunnel(proxy, [whole + b"x"])
    assert "closed the connection" in _tunnel(proxy, _cut(whole[:-1], at))


@given(st.integers(1, 255), cuts)
def test_socks_refusals_are_named(reply: int, at: list[int]) -> None:
    whole = b"\x05\x00\x05" + bytes([reply]) + b"\x00\x01" + bytes(6)
    assert "did not connect to the provider" in _tunnel(proxy_at("socks5://h:1"), _cut(whole, at))


@given(st.sampled_from(["socks5://u:p@h:1", "socks5://h:1", "http://h:1"]), st.lists(st.binary()))
def test_whatever_a_proxy_says_connects_or_is_named(address: str, pieces: list[bytes]) -> None:
    _tunnel(proxy_at(address), pieces)


@given(st.integers(200, 599), cuts)
def test_answers_to_connect_are_read_however_they_are_cut(status: int, at: list[int]) -> None:
    whole = f"HTTP/1.1 {status} made up\r\nA: b\r\n\r\n".encode()
    said = _tunnel(proxy_at("http://h:1"), _cut(whole, at))
    assert (said == "") == (status < 300)


def test_a_proxy_that_talks_without_end_is_ended() -> None:
    said = _tunnel(proxy_at("http://h:1"), [b"HTTP/1.1 200 OK\r\n"] + [b"a: b\r\n" * 1000] * 100)
    assert "did not answer as one" in said


async def test_an_address_that_is_none_is_no_direct_connection(world: World) -> None:
    class Odd:
        def reveal(self) -> str:
            return "http://u:made-up-password@nowhere"

    with pytest.raises(EgressProblem) as caught:
        await world.place("tcp", proxy=Odd())
    assert "made-up-password" not in str(caught.value)
