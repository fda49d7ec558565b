"""One attempt to log in: a CLI in a sandbox of its own, until it has written its credential.

Readiness is read off facts: the sandbox is there, the CLI runs, it has given a link or a code, its
file holds a login. Whoever calls bounds the whole.
"""

import asyncio
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from polydev.core.callbacks import OfferedPort, Relay
from polydev.core.home_files import changes, make_directories
from polydev.core.login_files import Files, Links, LoginFiles
from polydev.core.programs import Programs
from polydev.egress.client import Egress
from polydev.errors import Conflict, LoginFailed
from polydev.models.egress import Exchange, Purpose
from polydev.models.logins import LoginMethod, LoginState, LoginTrouble
from polydev.models.places import LINKS_FILE, Launch, Place
from polydev.models.proxies import Proxy
from polydev.proc import Process
from polydev.providers.base import Provider
from polydev.providers.login import (
    LOOPBACK_NAMES,
    KeyWay,
    LoginOrder,
    LoginStep,
    LoginWay,
    pasted,
)
from polydev.sandboxes.abc import Sandbox, Sandboxes
from polydev.secret import Secret

# What the CLI writes beside its credential (the account's name) comes a moment later.
SETTLE_SECONDS = 0.5
# After it said that it is logged in.
_FILE_SECONDS = 5.0
_LINK_SECONDS = 45.0
_WORDS = {
    LoginMethod.THIS_MACHINE: "Open the link in a browser on this machine and log in there. If the "
    "last page cannot be reached, paste its address here.",
    LoginMethod.DEVICE_CODE: "Open the link, log in there, and type the code.",
    LoginMethod.PASTE_CODE: "Open the link, log in there, and paste the code that it shows.",
    LoginMethod.RELAYED_CALLBACK: "Open the link and log in there. The last page cannot be "
    "reached: copy its address and paste it here.",
    LoginMethod.API_KEY: "Make a key on the provider's page and paste it here.",
}


class Progress(Protocol):
    """Where an attempt says how it stands."""

    def note(self, text: str) -> None:
        """A line for the login's log."""

    async def to(self, state: LoginState, message: str, **fields: Any) -> None:
        """The next state, in words for the person."""


class Attempt(Protocol):
    """What a login is carried out by."""

    async def run(self) -> Files:
        """The CLI's files, once they hold a login. Raises LoginFailed and what failed else."""

    async def answer(self, text: str) -> None:
        """Takes what the person pasted. Raises InvalidRequest, Conflict, LoginFailed."""

    def unreachable(self) -> LoginFailed | None:
        """What keeps it from the provider at the moment, when something does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptOrder:
    """What an attempt with the provider's CLI is made from. proxy: None to leave directly."""

    login_id: str
    provider: Provider
    way: LoginWay
    programs: Programs
    egress: Egress
    proxy: Proxy | None
    progress: Progress


class KeyAttempt:
    """A key in place of a login: waits until it is pasted."""

    def __init__(self, provider: Provider, way: KeyWay, progress: Progress) -> None:
        self._provider = provider
        self._way = way
        self._progress = progress
        self._key: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self) -> Files:
        await self._progress.to(LoginState.STARTING, "Nothing is run for a key.")
        await self._progress.to(LoginState.READY, "A key is waited for.")
        await self._progress.to(
            LoginState.WAITING_FOR_USER, _WORDS[self._way.method], link=self._way.page
        )
        key = await self._key
        await self._progress.to(LoginState.CREDENTIAL_SEEN, "A key was pasted.")
        return self._way.files(Secret(key))

    async def answer(self, text: str) -> None:
        key = pasted(text, self._way.pattern, self._provider.title)
        if self._key.done():
            raise Conflict("A key was pasted already.", remedy="Wait until it is proved.")
        self._key.set_result(key)

    def unreachable(self) -> None:
        return None


class CliAttempt:
    """A login by the provider's own CLI. Its sandbox is gone when `run` returns."""

    def __init__(self, order: AttemptOrder, sandboxes: Sandboxes) -> None:
        self._order = order
        self._provider = order.provider
        self._way = order.way
        self._programs = order.programs
        self._sandboxes = sandboxes
        self._proxy_failed = ""
        self._progress = order.progress
        self._dialogue = order.way.dialogue()
        self._sandbox: Sandbox | None = None
        self._process: Process | None = None
        self._offered = AsyncExitStack()
        self._relay: Relay | None = None
        self._wants_code = False
        self._links = Links()
        self._given = asyncio.Event()
        self._files = LoginFiles(order.provider)

    async def run(self) -> Files:
        self._programs.require(self._provider.program)
        await self._progress.to(LoginState.STARTING, "A place for the login is being made.")
        async with await self._sandboxes.open(self._launch) as sandbox, self._offered:
            make_directories(sandbox.home, [*self._files.paths, LINKS_FILE])
            binding = await self._order.egress.bind(
                connection_id=self._order.login_id,
                policy=self._provider.policy(Purpose.LOGIN, ""),
                listeners=sandbox.listeners,
                sentinel=None,
                proxy=self._order.proxy,
                on_exchange=self._saw,
            )
            async with binding:
                self._sandbox, self._process = sandbox, await sandbox.start()
                await self._process.send(self._launch(sandbox.place).opening)
                await self._progress.to(LoginState.READY, f"`{self._way.command}` runs.")
                try:
                    files = await self._until_written(sandbox.home, self._process)
                except LoginFailed as error:
                    # The CLI knows of no proxy: where that is what failed last, this says so.
                    raise self.unreachable() or error from error
                await sandbox.close(0)
                return files

    async def answer(self, text: str) -> None:
        is_address = text.strip().startswith(tuple(f"http://{name}:" for name in LOOPBACK_NAMES))
        if is_address and self._relay is not None:
            await self._relay.pasted(text)
            self._progress.note("the provider's answer was handed over")
        elif self._wants_code and self._process is not None:
            lines = self._dialogue.paste(text)
            self._progress.note("a code was handed over")
            await self._process.send(lines)
        elif self._relay is not None:
            await self._relay.pasted(text)  # which says what is wrong with it
        else:
            raise Conflict("Nothing is to be pasted now.", remedy="Follow the link first.")

    def _launch(self, place: Place) -> Launch:
        return self._way.launch(
            LoginOrder(
                place=place,
                program=self._programs.inside(self._provider.program, place),
                node=self._programs.node(place),
            )
        )

    async def _until_written(self, home: Path, process: Process) -> Files:
        talking = asyncio.create_task(self._talk(process))
        writing = asyncio.create_task(self._written(home))
        linking = asyncio.create_task(self._link_given())
        try:
            await asyncio.wait({talking, writing, linking}, return_when=asyncio.FIRST_COMPLETED)
            if linking.done():
                linking.result()
                await asyncio.wait({talking, writing}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                talking.result()
                await asyncio.wait({writing}, timeout=_FILE_SECONDS)
                if not writing.done():
                    raise LoginFailed(
                        f"{self._provider.title} says that it is logged in, but wrote no login.",
                        remedy="Try another method; report the CLI's version with this log.",
                        reason=LoginTrouble.NOT_UNDERSTOOD,
                    )
            files = writing.result()
            await self._progress.to(LoginState.CREDENTIAL_SEEN, "The login was written.")
            await asyncio.wait({talking}, timeout=SETTLE_SECONDS)
            return self._files.read(home) or files
        finally:
            for task in (talking, writing, linking):
                task.cancel()
            await asyncio.wait({talking, writing, linking})
            for task in (talking, writing, linking):
                if not task.cancelled():
                    task.exception()  # it was raised above, or does not matter any more

    async def _link_given(self) -> None:
        """Raises LoginFailed when the CLI gives no link for long."""
        try:
            async with asyncio.timeout(_LINK_SECONDS):
                await self._given.wait()
        except TimeoutError:
            raise LoginFailed(
                f"`{self._way.command}` runs, but gave no link for {_LINK_SECONDS:g} seconds, or "
                "none that is known.",
                remedy="The log has what it said. Try another method; report the CLI's version.",
                reason=LoginTrouble.NOT_UNDERSTOOD,
            ) from None

    async def _talk(self, process: Process) -> None:
        """Until the CLI says that it is logged in. Raises LoginFailed when it says otherwise."""
        async for line in process.lines():
            step = self._dialogue.receive(line)
            await self._take(step)
            if step.done:
                return
        code = await process.wait()
        await self._take(self._dialogue.ended(code, process.stderr_tail()))

    async def _written(self, home: Path) -> Files:
        async with aclosing(changes(home, [*self._files.paths, LINKS_FILE])) as seen:
            async for _ in seen:
                for link in self._links.new(home):
                    await self._take(self._dialogue.opened(link))
                files = self._files.read(home)
                if files:
                    return files
        raise LoginFailed("The login's files cannot be watched.", reason=LoginTrouble.INTERNAL)

    async def _take(self, step: LoginStep) -> None:
        if step.log:
            self._progress.note(step.log)
        if step.trouble is not None:
            raise LoginFailed(step.message, remedy="Try again.", reason=step.trouble)
        self._wants_code = self._wants_code or step.wants_code
        if step.callback is not None and self._relay is None:
            assert self._sandbox is not None
            self._relay = Relay(step.callback, self._sandbox.connect)
            # Without a network of its own the CLI listens on this machine itself.
            if self._way.method is LoginMethod.THIS_MACHINE and self._sandbox.own_network:
                await self._offered.enter_async_context(OfferedPort(self._relay))
        if step.link:
            self._given.set()
            await self._progress.to(
                LoginState.WAITING_FOR_USER,
                _WORDS[self._way.method],
                link=step.link,
                user_code=step.user_code,
            )

    def unreachable(self) -> LoginFailed | None:
        return proxy_trouble(self._provider, self._proxy_failed)

    def _saw(self, exchange: Exchange) -> None:
        if not exchange.refused:
            self._proxy_failed = exchange.unreachable if exchange.proxy_failed else ""
        words = f"{exchange.method} {exchange.host}{exchange.path}: {outcome(exchange)}"
        self._progress.note(words)


def proxy_trouble(provider: Provider, proxy_failed: str) -> LoginFailed | None:
    """proxy_failed: what egress last said of the outbound proxy, empty when it works."""
    if not proxy_failed:
        return None
    return LoginFailed(
        f"{provider.title} could not be reached: {proxy_failed}.",
        remedy="Nothing was sent without it. See to the proxy, or log in by another: "
        f"`polydev connect {provider.name} --proxy ADDRESS`.",
        reason=LoginTrouble.PROXY_FAILED,
    )


def outcome(exchange: Exchange) -> str:
    return exchange.refused or exchange.unreachable or str(exchange.status)
