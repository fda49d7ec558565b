"""Where egress connects to, and where it does not."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from polydev.authority import Authority
from polydev.config import EgressSettings
from polydev.egress.addresses import is_public
from polydev.egress.dial import Dialer
from polydev.egress.refusal import Refused
from polydev.models.egress import EgressMode, EgressPolicy, Rule
from tests.egress.conftest import HOST, OURS, SENTINEL, Place, World, Worlds, policy
from tests.egress.upstream import Upstream

pytestmark = pytest.mark.anyio

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
    "2001::1", "2001:db8::1", "fd00:ec2::254", "nonsense", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "160.79.104.10", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"],
)
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "169.254.169.254", "10.0.0.1"])
@pytest.mark.parametrize("way", ["tcp", "tunnel"])
async def test_without_a_redirect_private_addresses_are_refused(
    world_of: Worlds, host: str, way: str
) -> None:
    rules = (Rule(method="GET", host=host, path="/.*"),)
    async with world_of(EgressSettings()) as world:
        mode = EgressMode.TUNNEL if way == "tunnel" else EgressMode.INJECT
        place = await world.place(way, policy=policy(mode, rules=rules, plain_host=host))
        reader, writer = await place.bare()
        line = f"CONNECT {host}:443" if way == "tunnel" else "GET /x"
        writer.write(f"{line} HTTP/1.1\r\nHost: {host}\r\n{OURS}\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"not public" in answer
        assert "not public" in place.binding.exchanges[-1].refused


ANYWHERE = EgressPolicy(mode=EgressMode.TUNNEL, rules=(), any_public_host=True)


async def test_a_browser_reaches_a_host_that_no_rule_names(
    world: World, upstream: Upstream
) -> None:
    place = await world.place("tunnel", policy=ANYWHERE)
    assert (await place.http.get("/echo")).status_code == 200
    # The browser's own TLS, read by nobody: no token was put into it, and none taken out.
    assert upstream.seen[0].header("authorization") == [f"Bearer {SENTINEL.reveal()}"]
    assert upstream.seen[0].header("x-plan") == []


@pytest.mark.parametrize(
    "target", ["localhost:443", "10.0.0.1:443", "[::1]:443", f"{HOST}:80", f"{HOST}:22"]
)
async def test_a_browser_is_refused_what_is_not_public_even_with_a_redirect(
    world: World, upstream: Upstream, target: str
) -> None:
    place = await world.place("tunnel", policy=ANYWHERE)
    assert (await _connect(place, target)).startswith(b"HTTP/1.1 403")
    assert upstream.connections == 0


async def test_a_browser_is_refused_a_name_that_leads_to_a_private_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialer = Dialer()
    loop = asyncio.get_running_loop()

    async def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in ("8.8.8.8", "192.168.1.1")]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    with pytest.raises(Refused, match="not public"):
        await dialer.dial("rebound.example.com", None, tls=False)


async def _connect(place: Place, target: str) -> bytes:
    reader, writer = await place.bare()
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_name_that_does_not_resolve_is_told(world_of: Worlds) -> None:
    async with world_of(EgressSettings()) as world:
        place = await world.place("tcp")
        answer = await place.http.get("/echo")
        assert answer.status_code in (502, 504)
        assert place.binding.exchanges[-1].unreachable


async def test_a_certificate_of_another_authority_is_not_trusted(
    tmp_path: Path, upstream: Upstream, world_of: Worlds
) -> None:
    other = tmp_path / "other"
    Authority.load_or_create(other, "somebody else")
    settings = EgressSettings(redirect=f"127.0.0.1:{upstream.port}", upstream_ca=other / "ca.pem")
    async with world_of(settings, own=True) as world:
        place = await world.place("tcp")
        answer = await place.http.get("/echo")
        assert answer.status_code == 502
        assert "certificate" in place.binding.exchanges[-1].unreachable
        assert upstream.seen == []


async def test_a_certificate_for_another_name_is_not_trusted(
    world: World, upstream: Upstream
) -> None:
    rules = (Rule(method="GET", host="third.provider.test", path="/echo"),)
    changed = policy(EgressMode.INJECT, rules=rules, plain_host="third.provider.test")
    place = await world.place("tcp", policy=changed)
    assert (await place.http.get("/echo")).status_code == 502
    assert "third.provider.test" in place.binding.exchanges[-1].unreachable
    assert upstream.seen == []


@pytest.mark.parametrize("way", ["tcp", "tunnel"])
async def test_nobody_listening_is_told(
    world_of: Worlds,
    upstream_authority: tuple[Authority, Path],
    way: str,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = EgressSettings(redirect=f"127.0.0.1:{port}", upstream_ca=upstream_authority[1])
    async with world_of(settings, own=True) as world:
        place = await world.place(way)
        reader, writer = await place.bare()
        line = f"CONNECT {HOST}:443" if way == "tunnel" else "GET /echo"
        writer.write(f"{line} HTTP/1.1\r\nHost: {HOST}\r\n{OURS}\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 502")
        writer.close()
        assert "cannot be reached" in place.binding.exchanges[-1].unreachable
