"""The composition root: builds everything, in one exit stack.

    async with running_gateway(settings) as gateway:
        await gateway.serve_until(stop)

A start that fails unwinds by itself. One gateway works on a data directory at a time; the lock on
it is held for as long as the gateway lives, and goes with the process, however it ends.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp

from polydev.api.app import API_PATHS, network_app, owners_app
from polydev.api.dependencies import Services
from polydev.config import ServerSettings, Settings
from polydev.core.accounts import Accounts
from polydev.core.connecting import Connecting
from polydev.core.connections import Connections
from polydev.core.credentials import Credentials
from polydev.core.desktops import Desktops
from polydev.core.first_start import FirstStarts
from polydev.core.keeper import Keeper
from polydev.core.layout import Layout, address_of, locked
from polydev.core.listening import Address, check_listening, reached_at
from polydev.core.login_course import LoginCourse
from polydev.core.logins import Logins
from polydev.core.metrics import Metrics
from polydev.core.notices import Notices
from polydev.core.opened_vault import opened_vault
from polydev.core.programs import Programs
from polydev.core.proxies import Proxies
from polydev.core.quotas import Quotas
from polydev.core.runner import Runner
from polydev.core.runs import Runs
from polydev.core.sign_ins import SignIns
from polydev.core.windows import Windows
from polydev.egress.client import Egress
from polydev.errors import EgressProblem, SetupProblem
from polydev.sandboxes import sandboxes_for
from polydev.store import Store
from polydev.web.app import dashboard
from polydev.web.dependencies import WebServices

log = structlog.get_logger()

_DRAIN_SECONDS = 5
# Longer than clients keep an idle connection (httpx: 5 s): one that is closed while the next
# request is on its way looks to them like a failure.
_KEEP_ALIVE_SECONDS = 75


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """Everything started, and ready to listen."""

    settings: Settings
    layout: Layout
    services: Services
    egress: Egress

    def web_services(self, address: Address) -> WebServices:
        services = self.services
        return WebServices(
            accounts=services.accounts,
            connections=services.connections,
            connecting=services.connecting,
            windows=services.windows,
            runs=services.runs,
            logins=services.logins,
            sign_ins=services.sign_ins,
            notices=services.notices,
            programs=Programs(self.layout.programs),
            address=address,
        )

    async def serve_until(self, stop: asyncio.Event, listener: socket.socket | None) -> None:
        """Answers on the owner's socket, and on `listener`, until `stop` or the end of egress.

        Raises EgressProblem when the egress process died: nothing can be run without it.
        """
        settings = self.settings.server
        limit = settings.body_limit_bytes
        address = None
        if listener is not None:
            address = reached_at(settings, *listener.getsockname()[:2])
        with contextlib.closing(owners_listener(self.layout.owners_socket)) as own:
            owners = owners_app(self.services, limit, address.url if address else None)
            servers = [(_server(owners), own)]
            if listener is not None and address is not None:
                network = dashboard(
                    self.web_services(address),
                    otherwise=network_app(self.services, limit),
                    others=API_PATHS,
                )
                servers.append((_server(network, settings), listener))
            tasks = [asyncio.create_task(server.serve([sock])) for server, sock in servers]
            stopped = asyncio.create_task(stop.wait())
            died = asyncio.create_task(self.egress.exited.wait())
            try:
                await asyncio.wait({*tasks, stopped, died}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopped.cancel()
                died.cancel()
                for server, _ in servers:
                    server.should_exit = True
                # Streams end when their runs do, which is before the servers wait for them.
                self.services.notices.close()
                # Together: a login that is being proved ends with the run that proves it.
                await asyncio.gather(self.services.logins.stop(), self.services.runs.stop())
                await asyncio.wait(tasks)
                self.layout.owners_socket.unlink(missing_ok=True)
            for task in tasks:
                task.result()
            if self.egress.exited.is_set() and not stop.is_set():
                raise EgressProblem(
                    "The egress process ended, so the gateway did too. Runs in flight have failed; "
                    "no credential is lost.",
                    remedy="Start it again; the installed service does so by itself.",
                )


@asynccontextmanager
async def running_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """Everything but the listening sockets, started; ended in reverse order.

    Raises SetupProblem (data directory in use or unusable), VaultProblem (wrong key),
    StoreProblem, SandboxUnavailable, EgressProblem.
    """
    layout = Layout.of(settings)
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(layout))
        notices = Notices()
        store = await stack.enter_async_context(
            Store.open(settings.store, settings.data, publish=notices.publish)
        )
        vault = await opened_vault(settings, store)
        metrics = Metrics()
        programs = Programs(layout.programs)
        egress = await stack.enter_async_context(
            Egress(settings.egress, authority=layout.authority, spool=layout.spool)
        )
        sandboxes = await stack.enter_async_context(
            sandboxes_for(
                settings.sandbox,
                directory=layout.sandboxes,
                programs=layout.programs,
                authority=egress.authority_pem,
            )
        )
        left_over = await sandboxes.reap()
        if left_over:
            log.info("removed what the last gateway left", sandboxes=left_over)
        first_starts = FirstStarts(programs, sandboxes)
        stack.push_async_callback(first_starts.close)
        credentials = Credentials(store, vault, egress)
        proxies = Proxies(store, vault, egress, settings.egress.proxy)
        keeper = Keeper(
            store=store,
            vault=vault,
            credentials=credentials,
            egress=egress,
            sandboxes=sandboxes,
            programs=programs,
            proxies=proxies,
            spool=layout.spool,
            metrics=metrics,
            settings=settings.keeper,
        )
        await keeper.recover()
        connections = Connections(store, keeper, proxies)
        windows = Windows(store, notices.publish)
        accounts = Accounts(store, settings.keys)
        quotas = Quotas()
        runs = Runs(
            store=store,
            vault=vault,
            connections=connections,
            windows=windows,
            keeper=keeper,
            runner=Runner(
                programs=programs,
                first_starts=first_starts,
                sandboxes=sandboxes,
                egress=egress,
                proxies=proxies,
                settings=settings.runs,
            ),
            quotas=quotas,
            metrics=metrics,
            settings=settings.runs,
            publish=notices.publish,
            obstacle=lambda: "The egress process is gone." if egress.exited.is_set() else "",
        )
        await stack.enter_async_context(runs)
        await stack.enter_async_context(_task(windows.store_forever()))
        await stack.enter_async_context(_task(keeper.keep_forever()))
        await accounts.first_user()
        connecting = Connecting(
            store=store,
            credentials=credentials,
            connections=connections,
            proxies=proxies,
            runs=runs,
        )
        desktops = await stack.enter_async_context(
            Desktops(sandboxes, settings.desktop, settings.egress.upstream_ca)
        )
        logins = Logins(
            store=store,
            course=LoginCourse(
                store=store,
                programs=programs,
                sandboxes=sandboxes,
                desktops=desktops,
                egress=egress,
                proxies=proxies,
                connecting=connecting,
                settings=settings.logins,
            ),
            desktops=desktops,
            proxies=proxies,
            publish=notices.publish,
            settings=settings.logins,
        )
        accounts.when_disabled(logins.cancel_all)
        await stack.enter_async_context(logins)
        yield Gateway(
            settings=settings,
            layout=layout,
            services=Services(
                accounts=accounts,
                connections=connections,
                connecting=connecting,
                proxies=proxies,
                logins=logins,
                windows=windows,
                quotas=quotas,
                runs=runs,
                sign_ins=SignIns(store),
                metrics=metrics,
                notices=notices,
            ),
            egress=egress,
        )


def network_listener(server: ServerSettings) -> socket.socket:
    """Raises SetupProblem when the address is taken, not this machine's, or not safe to use."""
    check_listening(server)
    host, port = server.host, server.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=512)
    except OSError as error:
        raise SetupProblem(
            f"{host}:{port} cannot be listened on: {error.strerror or error}.",
            remedy="Stop what uses it, or set POLYDEV_SERVER__PORT to another port.",
            reason="port_taken",
        ) from error
    listener.setblocking(False)
    return listener


def owners_listener(path: Path) -> socket.socket:
    """A unix socket that only this account can open. The caller holds the directory's lock."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with address_of(path) as address:
        mask = os.umask(0o177)
        try:
            listener.bind(address)
        finally:
            os.umask(mask)
    listener.listen(128)
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """One of several servers in a process: signals are the process's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, settings: ServerSettings | None = None) -> _Server:
    """settings: those of the network; None for the owner's socket."""
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            # A desktop's pixels are compressed already, and doing it again stops everything else.
            ws_per_message_deflate=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            ssl_certfile=settings.tls_certificate if settings else None,
            ssl_keyfile=settings.tls_key if settings else None,
        )
    )


@asynccontextmanager
async def _task(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
