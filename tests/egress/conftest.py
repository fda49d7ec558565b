"""An egress process, an upstream, and the ways by which a sandbox reaches the one over the other."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from polydev.authority import Authority
from polydev.config import EgressSettings
from polydev.egress.binding import Binding
from polydev.egress.client import Egress
from polydev.models.egress import AddedHeader, EgressMode, EgressPolicy, Rule
from polydev.models.proxies import Proxy, ProxyRange
from polydev.secret import Secret
from tests.egress.proxying import LittleProxy
from tests.egress.upstream import Front, Upstream

HOST = "api.provider.test"
OTHER_HOST = "login.provider.test"
SENTINEL = Secret("made-up-sentinel")
OURS = f"X-Api-Key: {SENTINEL.reveal()}\r\n"  # for requests that are written by hand
TOKEN = Secret("made-up-access-token")
SEAL_KEY = Secret(b"k" * 32)

RULES = (
    *(
        Rule(
            method=method, host=HOST, path=r"/(echo|early|gated|hang|cut|silent|close|leave)(/.*)?"
        )
        for method in ("GET", "POST", "HEAD")
    ),
    Rule(method="GET", host=HOST, path=r"/(big|status)/\d+"),
    Rule(method="GET", host=HOST, path=r"/ws(-refused)?", websocket=True),
    Rule(method="POST", host=OTHER_HOST, path=r"/token", sealed=True),
    Rule(method="POST", host=OTHER_HOST, path=r"/(status/\d+|silent)", sealed=True),
    Rule(method="GET", host=OTHER_HOST, path=r"/echo"),
)


def policy(mode: EgressMode, **changes: Any) -> EgressPolicy:
    fields: dict[str, Any] = {
        "mode": mode,
        "rules": RULES,
        "plain_host": HOST,
        "removed": ("x-account", "x-device"),
        "added": (
            AddedHeader(name="Authorization", value="Bearer {access_token}"),
            AddedHeader(name="x-account", value="{account_id}"),
            AddedHeader(name="x-plan", value="{plan}"),
        ),
        "observed": ("x-limit-",),
        "on_failure": (AddedHeader(name="x-should-retry", value="false"),),
    }
    return EgressPolicy(**{**fields, **changes})


def proxy_at(address: str) -> Proxy:
    found = ProxyRange.parse(address)
    return found.at(found.ports[0])


def listener(path: Path | None = None) -> socket.socket:
    if path is None:
        return socket.create_server(("127.0.0.1", 0))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


@dataclass(frozen=True)
class Way:
    """How a sandbox speaks to egress: plain HTTP to a socket or port, or CONNECT with TLS.

    proxy: the kind of outbound proxy that egress goes through.
    """

    name: str
    mode: EgressMode
    connect: bool = False
    unix: bool = False
    proxy: str = ""


WAYS = {
    way.name: way
    for way in (
        Way("unix", EgressMode.INJECT, unix=True),
        Way("tcp", EgressMode.INJECT),
        Way("connect", EgressMode.INJECT, connect=True),
        Way("witness", EgressMode.WITNESS, connect=True),
        Way("tunnel", EgressMode.TUNNEL, connect=True),
        Way("unix-by-http", EgressMode.INJECT, unix=True, proxy="http"),
        Way("connect-by-https", EgressMode.INJECT, connect=True, proxy="https"),
        Way("tunnel-by-socks5", EgressMode.TUNNEL, connect=True, proxy="socks5"),
    )
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick half tries no way through a proxy; what is particular to them is in test_proxies."""
    for item in items:
        if any(f"[{way.name}" in item.name for way in WAYS.values() if way.proxy):
            item.add_marker(pytest.mark.slow)


READING = ("unix", "tcp", "connect", "witness")
INJECTING = ("unix", "tcp", "connect")


@dataclass
class Place:
    """One bound sandbox: speaks through its way as `http`, or by raw bytes."""

    way: Way
    binding: Binding
    address: Path | int
    trust: ssl.SSLContext
    http: httpx.AsyncClient
    proxy: LittleProxy | None = None
    headers: dict[str, str] = field(default_factory=dict)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which requests for HOST are served."""
        reader, writer = await self.bare()
        if self.way.connect:
            writer.write(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await writer.start_tls(self.trust, server_hostname=HOST)
        return reader, writer

    async def bare(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.address, Path):
            return await asyncio.open_unix_connection(self.address)
        return await asyncio.open_connection("127.0.0.1", self.address)

    async def ask_raw(self, request: bytes) -> bytes:
        """The status line and all that follows until egress closes."""
        reader, writer = await self.raw()
        try:
            writer.write(request)
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


@dataclass
class World:
    """What tests build places in."""

    egress: Egress
    upstream: Upstream
    upstream_pem: Path
    directory: Path
    stack: contextlib.AsyncExitStack
    count: int = 0
    connections: set[str] = field(default_factory=set)

    async def place(self, way: str | Way, *, connection_id: str = "c1", **changes: Any) -> Place:
        way = WAYS[way] if isinstance(way, str) else way
        self.count += 1
        self.connections.add(connection_id)
        path = self.directory / f"{self.count}.sock" if way.unix else None
        listening = listener(path)
        address = path or listening.getsockname()[1]
        little = None
        proxy = changes.pop("proxy", None)
        if way.proxy:
            little = await self.stack.enter_async_context(self.proxy(way.proxy))
            proxy = proxy_at(little.address)
        binding = await self.egress.bind(
            connection_id=connection_id,
            policy=changes.pop("policy", None) or policy(way.mode, **changes),
            listeners=[listening],
            sentinel=SENTINEL,
            proxy=proxy,
            seal_key=SEAL_KEY,
        )
        await self.stack.enter_async_context(binding)
        pem = self.upstream_pem if way.mode is EgressMode.TUNNEL else self.egress.authority_pem
        trust = ssl.create_default_context(cafile=pem)
        if way.connect:
            http = httpx.AsyncClient(
                base_url=f"https://{HOST}",
                proxy=f"http://127.0.0.1:{address}",
                verify=trust,
                trust_env=False,
                timeout=15,
            )
        else:
            transport = httpx.AsyncHTTPTransport(uds=str(path) if path else None)
            base = f"http://{HOST}" if path else f"http://127.0.0.1:{address}"
            http = httpx.AsyncClient(
                base_url=base, transport=transport, trust_env=False, timeout=15
            )
        await self.stack.enter_async_context(http)
        http.headers["authorization"] = f"Bearer {SENTINEL.reveal()}"
        return Place(
            way=way, binding=binding, address=address, trust=trust, http=http, proxy=little
        )

    def proxy(self, kind: str, **changes: Any) -> LittleProxy:
        """One that egress trusts, where it speaks TLS."""
        authority = self.upstream.front.authority
        context = authority.server_context("localhost") if kind == "https" else None
        return LittleProxy(kind, context=context, **changes)

    async def forget(self) -> None:
        """Leaves nothing of its connections in a process that others use after it."""
        for connection_id in self.connections:
            await self.egress.forget(connection_id)

    async def connect_credential(self, connection_id: str = "c1", token: str = "") -> None:
        self.connections.add(connection_id)
        await self.egress.set_credential(
            connection_id,
            access_token=Secret(token) if token else TOKEN,
            attributes={"account_id": "made-up-account"},
        )


Worlds = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture(scope="session")
def upstream_authority(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Authority, Path]]:
    directory = tmp_path_factory.mktemp("upstream-ca")
    yield Authority.load_or_create(directory, "upstream of tests"), directory / "ca.pem"


@pytest.fixture(scope="session")
async def front(
    anyio_backend: object, upstream_authority: tuple[Authority, Path]
) -> AsyncIterator[Front]:
    async with Front(authority=upstream_authority[0], hosts=(HOST, OTHER_HOST)) as front:
        yield front


@pytest.fixture
async def upstream(front: Front) -> AsyncIterator[Upstream]:
    async with Upstream(front) as upstream:
        yield upstream


@pytest.fixture(scope="session")
async def shared(
    anyio_backend: object, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callable[[EgressSettings], Awaitable[Egress]]]:
    """The egress process with these settings, which many tests use one after the other.

    Starting one takes a third of a second.
    """
    async with contextlib.AsyncExitStack() as stack:
        started: dict[str, Egress] = {}

        async def process(settings: EgressSettings) -> Egress:
            name = settings.model_dump_json()
            if name not in started:
                directory = tmp_path_factory.mktemp("egress")
                started[name] = await stack.enter_async_context(process_in(directory, settings))
            return started[name]

        yield process


def process_in(directory: Path, settings: EgressSettings | None = None) -> Egress:
    return Egress(
        settings or EgressSettings(),
        authority=directory / "authority",
        spool=directory / "spool",
    )


@pytest.fixture
def world_of(
    shared: Callable[[EgressSettings], Awaitable[Egress]],
    upstream: Upstream,
    upstream_authority: tuple[Authority, Path],
    tmp_path: Path,
) -> Worlds:
    """Opens worlds; `own` is for those whose egress process must have seen nothing else."""

    @contextlib.asynccontextmanager
    async def opened(settings: EgressSettings, *, own: bool = False) -> AsyncIterator[World]:
        async with contextlib.AsyncExitStack() as process, contextlib.AsyncExitStack() as stack:
            if own:
                egress = await process.enter_async_context(process_in(tmp_path, settings))
            else:
                egress = await shared(settings)
            world = World(
                egress=egress,
                upstream=upstream,
                upstream_pem=upstream_authority[1],
                directory=tmp_path,
                stack=stack,
            )
            if not own:
                process.push_async_callback(world.forget)
            await world.connect_credential()
            yield world

    return opened


@pytest.fixture
def redirected(upstream: Upstream, upstream_authority: tuple[Authority, Path]) -> EgressSettings:
    return EgressSettings(redirect=f"127.0.0.1:{upstream.port}", upstream_ca=upstream_authority[1])


@pytest.fixture
async def world(world_of: Worlds, redirected: EgressSettings) -> AsyncIterator[World]:
    async with world_of(redirected) as world:
        yield world


@pytest.fixture
async def own_world(world_of: Worlds, redirected: EgressSettings) -> AsyncIterator[World]:
    """For tests that look at the egress process itself, or end it."""
    async with world_of(redirected, own=True) as world:
        yield world
