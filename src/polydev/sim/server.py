"""Starts the simulator: one TLS listener on loopback that answers for every provider name.

`async with Simulator(directory) as sim` leaves `ca.pem` and one credential file per provider in
`directory` and listens on `sim.port`. A port that is taken raises SetupProblem. Leaving closes
the listener at once and gives open streams a bounded time; no signal handler is installed.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
import uvicorn

from polydev.authority import Authority
from polydev.errors import SetupProblem
from polydev.sim.app import VENDORS, create_app
from polydev.sim.control import credential_of
from polydev.sim.state import World

LOCAL_NAMES = ("localhost", "127.0.0.1")
_STOP_SECONDS = 3
_START_SECONDS = 20

log = structlog.get_logger()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Whoever runs the simulator inside a process of their own keeps their handlers."""
        yield


class Simulator:
    """A running simulator, in this process and event loop.

    directory: gets `ca.pem` and the credential files; made when missing, and not removed.
    port: 0 takes a free one.
    accounts: whether to make a first account per provider (named `PROVIDER-1`) and its file.
    """

    def __init__(self, directory: Path, *, port: int = 0, accounts: bool = True) -> None:
        self.directory = directory
        self.port = port
        self.world = World(VENDORS)
        self.authority: Authority
        self._with_accounts = accounts
        self._server: _Server
        self._task: asyncio.Task[None] | None = None

    @property
    def ca(self) -> Path:
        """The PEM file of the authority that signed what the simulator shows."""
        return self.directory / "ca.pem"

    @property
    def redirect(self) -> str:
        """`host:port`, as `egress.redirect` wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every provider name it answers for."""
        return tuple(host for vendor in self.world.vendors.values() for host in vendor.hosts)

    def credential_path(self, provider: str) -> Path:
        """The credential file of the provider's first account."""
        return self.directory / self.world.vendors[provider].credential_path

    async def __aenter__(self) -> Self:
        listener = _listener(self.port)
        try:
            self.port = listener.getsockname()[1]
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.authority = Authority.load_or_create(self.directory, "polydev simulator")
            context = self.authority.server_context(*self.hosts, *LOCAL_NAMES)
            if self._with_accounts:
                self._write_accounts()
            self._server = _Server(_config(self.world, context))
            self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
            await self._observe_start(self._task)
        except BaseException:
            listener.close()
            if self._task is not None:
                self._task.cancel()
            raise
        log.info("simulator started", port=self.port, directory=str(self.directory))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._server.should_exit = True
        try:
            async with asyncio.timeout(2 * _STOP_SECONDS):
                await self._task
        except TimeoutError:
            log.warning("simulator stopped late", port=self.port)

    async def serve(self) -> None:
        """Returns when the listener ends, which by itself it does not."""
        assert self._task is not None
        await asyncio.shield(self._task)

    def _write_accounts(self) -> None:
        for vendor in self.world.vendors.values():
            account = self.world.create_account(vendor.provider)
            path = self.directory / vendor.credential_path
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(credential_of(self.world, account, None))

    async def _observe_start(self, task: asyncio.Task[None]) -> None:
        async with asyncio.timeout(_START_SECONDS):
            while not self._server.started:
                if task.done():
                    await task
                    raise SetupProblem(
                        "The simulator's server ended while it started.",
                        remedy="Look at the log lines before this one.",
                    )
                # uvicorn shows its start only as a flag.
                await asyncio.sleep(0.002)


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it; without it each answer waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise SetupProblem(
            f"The simulator cannot listen on 127.0.0.1:{port}: {error.strerror}.",
            remedy="Choose another port, or 0 for a free one.",
        ) from error
    listener.setblocking(False)
    return listener


def _config(world: World, context: ssl.SSLContext) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(world),
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        interface="asgi3",
        # Streams that are cut off on purpose would each be reported as an error.
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_context_factory=lambda _config, _default: context,
        timeout_graceful_shutdown=_STOP_SECONDS,
        timeout_keep_alive=600,
        ws_max_size=64 * 2**20,
    )
