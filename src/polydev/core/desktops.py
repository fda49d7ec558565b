"""Desktops for logins: opened, kept ready where the settings ask for it, ended without a trace.

A desktop on standby belongs to nobody: nothing of a login is in it and no egress answers it. It is
handed over to one login, and ends with that. Raises SandboxUnavailable when this machine has not
what a desktop needs, or when a part of it does not come up in time.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from polydev.config import DesktopSettings
from polydev.core.home_files import connected, write_file
from polydev.desktop import COMMAND, VNC_SOCKET, Desktop, Fact, command_of, desktop_launch
from polydev.desktop.packages import PACKAGES
from polydev.desktop.rfb import Screen
from polydev.errors import Conflict, PolydevError, SandboxUnavailable
from polydev.models.places import Launch
from polydev.proc import to_the_end
from polydev.sandboxes.abc import Sandbox, Sandboxes
from polydev.sandboxes.confinement import file_under_home
from polydev.secret import Secret

log = structlog.get_logger()

SIZE = (1920, 1080)
_SCREEN_SECONDS = 10.0
FIX = "polydev doctor --fix --desktop"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def missing_packages(root: Path = Path("/")) -> list[str]:
    """Debian packages that a desktop needs and that are not there."""
    return [package for package, file in PACKAGES.items() if not (root / "usr" / file).exists()]


class OpenDesktop:
    """One desktop in a sandbox of its own. Made by `Desktops` only."""

    def __init__(self, sandbox: Sandbox, desktop: Desktop, stack: AsyncExitStack) -> None:
        self.sandbox = sandbox
        self.desktop = desktop
        self._stack = stack

    async def hand_over(self, cli: Launch) -> None:
        """Starts the CLI in the terminal, and returns when the person can use it.

        That is: the terminal has the keyboard, and the screen has its size and shows something.
        """
        home, place = self.sandbox.home, self.sandbox.place
        try:
            for name, content in cli.files.items():
                write_file(home, file_under_home(name), content)
            write_file(home, COMMAND, Secret(command_of(cli, place)))
        except OSError as error:
            raise SandboxUnavailable(
                f"The command could not be handed to the desktop: {error.strerror or error}.",
                remedy="Try again.",
                reason="desktop_files",
            ) from error
        await self.desktop.open()
        await self.desktop.until(Fact.COMMAND)
        await self._seen()

    async def connect(self) -> Streams:
        """A connection of its own to the screen, which speaks VNC. Raises Conflict."""
        try:
            connection = connected(self.sandbox.home, VNC_SOCKET)
        except OSError as error:
            raise Conflict(
                "The desktop cannot be reached: it is ending, or not there yet.",
                remedy="Look at how the login stands, and try again.",
                reason="no_desktop",
            ) from error
        return await asyncio.open_unix_connection(sock=connection)

    async def close(self) -> None:
        await self._stack.aclose()

    async def _seen(self) -> None:
        reader, writer = await self.connect()
        try:
            async with asyncio.timeout(_SCREEN_SECONDS):
                screen = await Screen.open(reader, writer)
                if (screen.width, screen.height) != SIZE:
                    raise SandboxUnavailable(
                        f"The desktop's screen has {screen.width}x{screen.height} points.",
                        remedy="Report the version of tigervnc-standalone-server.",
                        reason="desktop_size",
                    )
                await screen.drawn()
        except TimeoutError:
            raise SandboxUnavailable(
                "The desktop's screen stays empty.", remedy="Try again.", reason="desktop_black"
            ) from None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Desktops:
    """Enter it to keep as many on standby as the settings say; leaving ends those."""

    def __init__(
        self, sandboxes: Sandboxes, settings: DesktopSettings, upstream_ca: Path | None
    ) -> None:
        self._sandboxes = sandboxes
        self._settings = settings
        self._upstream_ca = upstream_ca
        self._ready: list[OpenDesktop] = []
        self._taken = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def take(self) -> AsyncIterator[OpenDesktop]:
        """One for a single login: one from standby, or a new one. It ends with the context."""
        desktop = await self._take()
        self._taken.set()
        try:
            yield desktop
        finally:
            await to_the_end(asyncio.ensure_future(desktop.close()))

    async def __aenter__(self) -> Self:
        if self._settings.standby:
            self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await asyncio.gather(*(desktop.close() for desktop in self._ready))

    @property
    def has_stand_in(self) -> bool:
        """Whether something stands in for the whole network, with an authority of its own."""
        return self._upstream_ca is not None

    @property
    def waiting(self) -> int:
        """How many are on standby."""
        return len(self._ready)

    async def _take(self) -> OpenDesktop:
        while self._ready:
            desktop = self._ready.pop(0)
            if desktop.desktop.usable:
                return desktop
            await to_the_end(asyncio.ensure_future(desktop.close()))
        return await self._open()

    async def _open(self) -> OpenDesktop:
        missing = missing_packages()
        if missing:
            raise SandboxUnavailable(
                f"A remote desktop needs what is not installed: {', '.join(missing)}.",
                remedy=f"Run `{FIX}`, or log in by another method.",
                reason="desktop_missing",
            )
        upstream_ca = self._upstream_ca.read_bytes() if self._upstream_ca else None
        async with AsyncExitStack() as stack:
            sandbox = await self._sandboxes.open(lambda place: desktop_launch(place, upstream_ca))
            stack.push_async_callback(sandbox.close, 0)
            desktop = await stack.enter_async_context(Desktop(await sandbox.start()))
            return OpenDesktop(sandbox, desktop, stack.pop_all())

    async def _keep(self) -> None:
        """Makes them one after the other; after a failure not before the next is asked for."""
        while True:
            self._taken.clear()
            if len(self._ready) < self._settings.standby:
                try:
                    await self._prepare()
                except (PolydevError, OSError) as error:
                    log.warning("no desktop could be kept ready", why=str(error))
                else:
                    continue
            await self._taken.wait()

    async def _prepare(self) -> None:
        desktop = await self._open()
        try:
            await desktop.desktop.until(Fact.TERMINAL)
            await desktop.desktop.until(Fact.BROWSER)
        except BaseException:
            await to_the_end(asyncio.ensure_future(desktop.close()))
            raise
        self._ready.append(desktop)
