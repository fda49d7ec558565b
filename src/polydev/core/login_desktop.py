"""One attempt to log in on a remote desktop: the CLI runs in its terminal, a person sees to the rest.

It ends as every attempt does, with the files that the CLI wrote. A command that fails does not end
it: its words are in the terminal, where it can be run again. Whoever calls bounds the whole.
"""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

from polydev.core.desktops import Desktops, OpenDesktop, Streams
from polydev.core.home_files import changes, make_directories
from polydev.core.login_attempt import SETTLE_SECONDS, AttemptOrder, outcome, proxy_trouble
from polydev.core.login_files import Files, Links, LoginFiles
from polydev.desktop import POLICY, UPSTREAM_AUTHORITY
from polydev.errors import Conflict, LoginFailed
from polydev.models.desktops import Window
from polydev.models.egress import Exchange
from polydev.models.logins import LoginState, LoginTrouble
from polydev.models.places import LINKS_FILE, Launch, Place
from polydev.providers.login import LoginOrder

_WORDS = "Log in on the desktop, in its browser."


class DesktopAttempt:
    def __init__(self, order: AttemptOrder, desktops: Desktops) -> None:
        self._order = order
        self._provider = order.provider
        self._way = order.way
        self._programs = order.programs
        self._desktops = desktops
        self._proxy_failed = ""
        self._progress = order.progress
        self._files = LoginFiles(order.provider)
        self._links = Links()
        self._dialogue = order.way.dialogue()
        self._desktop: OpenDesktop | None = None
        self._done = asyncio.Event()
        self._hosts: set[tuple[str, str]] = set()

    async def run(self) -> Files:
        """The CLI's files, once they hold a login. The desktop is gone by then.

        Raises what the sandbox, the desktop or egress could not do.
        """
        self._programs.require(self._provider.program)
        await self._progress.to(LoginState.STARTING, "A desktop for the login is being made.")
        try:
            async with self._desktops.take() as desktop:
                return await self._use(desktop)
        finally:
            self._desktop = None

    async def answer(self, text: str) -> None:
        raise Conflict(
            "A login on a desktop takes its code there.",
            remedy="Paste it into the desktop's terminal.",
        )

    def unreachable(self) -> LoginFailed | None:
        return proxy_trouble(self._provider, self._proxy_failed)

    async def connect(self) -> Streams:
        """A connection of its own to the screen. Raises Conflict when there is none."""
        return await self._open_desktop().connect()

    async def raise_window(self, window: Window) -> None:
        await self._open_desktop().desktop.raise_window(window)

    def _open_desktop(self) -> OpenDesktop:
        if self._desktop is None:
            raise Conflict(
                "The login's desktop is not there yet, or not any more.",
                remedy="It can be used while the login is `ready` or `waiting_for_user`.",
                reason="no_desktop",
            )
        return self._desktop

    async def _use(self, desktop: OpenDesktop) -> Files:
        home = desktop.sandbox.home
        make_directories(home, [*self._files.paths, LINKS_FILE])
        desktop.desktop.on_fact = self._progress.note
        desktop.desktop.on_end = self._command_ended
        binding = await self._order.egress.bind(
            connection_id=self._order.login_id,
            policy=POLICY,
            listeners=desktop.sandbox.listeners,
            sentinel=None,
            proxy=self._order.proxy,
            on_exchange=self._saw,
        )
        async with binding:
            await desktop.hand_over(self._launch(desktop.sandbox.place))
            self._desktop = desktop
            await self._progress.to(
                LoginState.READY,
                f"`{self._way.command}` runs on the desktop. What it asks, it asks in the "
                "terminal there.",
            )
            files = await self._until_written(desktop, home)
            self._desktop = None
            await desktop.close()
            return files

    def _launch(self, place: Place) -> Launch:
        authority = place.home / UPSTREAM_AUTHORITY if self._desktops.has_stand_in else None
        return self._way.launch(
            LoginOrder(
                place=place,
                program=self._programs.inside(self._provider.program, place),
                node=self._programs.node(place),
                authority=authority,
            )
        )

    async def _until_written(self, desktop: OpenDesktop, home: Path) -> Files:
        writing = asyncio.create_task(self._written(home))
        failing = asyncio.create_task(desktop.desktop.failed())
        done = asyncio.create_task(self._done.wait())
        try:
            await asyncio.wait({writing, failing}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                raise failing.result()
            files = writing.result()
            await self._progress.to(LoginState.CREDENTIAL_SEEN, "The login was written.")
            # The account's name comes a moment after the credential, before the command ends.
            await asyncio.wait({done}, timeout=SETTLE_SECONDS)
            return self._files.read(home) or files
        finally:
            tasks: tuple[asyncio.Task[Any], ...] = (writing, failing, done)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _written(self, home: Path) -> Files:
        """Waits for a whole login; meanwhile shows the person what the desktop's browser opens."""
        async with aclosing(changes(home, [*self._files.paths, LINKS_FILE])) as seen:
            async for _ in seen:
                for address in self._links.new(home):
                    if link := self._dialogue.opened(address).link:
                        await self._progress.to(LoginState.WAITING_FOR_USER, _WORDS, link=link)
                files = self._files.read(home)
                if files:
                    return files
        raise LoginFailed("The login's files cannot be watched.", reason=LoginTrouble.INTERNAL)

    def _command_ended(self, code: int) -> None:
        if code == 0:
            self._done.set()
        else:
            self._progress.note(self._dialogue.ended(code, "").message)

    def _saw(self, exchange: Exchange) -> None:
        """One line per host: a page asks its own a hundred times."""
        if not exchange.refused:
            self._proxy_failed = exchange.unreachable if exchange.proxy_failed else ""
        seen = (exchange.host, outcome(exchange))
        if seen not in self._hosts:
            self._hosts.add(seen)
            self._progress.note(f"{exchange.method} {seen[0]}: {seen[1]}")
