"""What the egress process holds: one Bound per binding, and the Services that all share."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polydev.authority import Authority
from polydev.egress.dial import Dialer
from polydev.egress.headers import Token
from polydev.egress.notices import Notices
from polydev.egress.policy import Judge
from polydev.egress.stream import Stream
from polydev.egress.upstream import Pool
from polydev.models.egress import EgressPolicy, Rule
from polydev.models.proxies import Proxy
from polydev.secret import Secret

_LEAF_SECONDS = 7 * 24 * 3600.0


@dataclass(kw_only=True, eq=False)
class Bound:
    """One binding: its listeners, their open connections, and what they may ask.

    proxy: what its requests leave by; None for directly. Changing it needs `Pool.forget` too.
    sealing: held while an answer of this binding is written, so that they are kept in order.
    kept_success: the spool already holds a 2xx answer of this binding.
    asked: rules that admit one request and have admitted it.
    """

    id: str
    connection_id: str
    judge: Judge
    sentinel: Secret[str] | None
    seal_key: Secret[bytes] | None
    proxy: Proxy | None
    servers: list[asyncio.Server] = field(default_factory=list)
    streams: set[Stream] = field(default_factory=set)
    sealing: asyncio.Lock = field(default_factory=asyncio.Lock)
    kept_success: bool = False
    asked: set[Rule] = field(default_factory=set)
    _in_flight: int = 0
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def policy(self) -> EgressPolicy:
        return self.judge.policy

    def close(self) -> None:
        """Closes listeners and connections. Sealed requests under way go on by themselves."""
        for server in self.servers:
            server.close()
        for stream in list(self.streams):
            stream.abort()

    @contextlib.contextmanager
    def sealed_request(self) -> Iterator[None]:
        """Held from a sealed request's first byte until its answer is kept."""
        self._in_flight += 1
        self._settled.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._settled.set()

    async def settle(self) -> None:
        """Waits until no sealed request is under way. The caller bounds it."""
        if self._in_flight:
            await self._settled.wait()


@dataclass(kw_only=True, eq=False)
class Services:
    """tokens: by connection id."""

    authority: Authority
    dialer: Dialer
    notices: Notices
    spool: Path
    pool: Pool = field(init=False)
    tokens: dict[str, Token] = field(default_factory=dict)
    _contexts: dict[str, tuple[float, ssl.SSLContext]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = Pool(self.dialer.dial)

    def server_context(self, host: str) -> ssl.SSLContext:
        """Shows the sandbox a certificate for `host`, which some policy admits."""
        now = asyncio.get_running_loop().time()
        made_at, context = self._contexts.get(host, (0.0, None))
        if context is None or now - made_at > _LEAF_SECONDS:
            context = self.authority.server_context(host)
            self._contexts[host] = (now, context)
        return context
