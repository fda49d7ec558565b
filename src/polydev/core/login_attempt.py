"""One attempt to log in: a CLI in a sandbox of its own, until it has written its credential.

Readiness is read off facts: the sandbox is there, the CLI runs, it has given a link or a code, its
file holds a login. Whoever calls bounds the whole.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from polydev.core.home_files import changes, make_directories, read_file, read_object
from polydev.core.programs import Programs
from polydev.egress.client import Egress
from polydev.errors import Conflict, CredentialUnreadable, LoginFailed, ProgramMissing
from polydev.models.egress import Exchange, Purpose
from polydev.models.logins import LoginState, LoginTrouble
from polydev.models.places import Launch, Place
from polydev.proc import Process
from polydev.providers.base import Provider
from polydev.providers.login import LoginOrder, LoginStep, LoginWay
from polydev.sandboxes.abc import Sandboxes
from polydev.secret import Secret

# What the CLI writes beside its credential (the account's name) comes a moment later.
_SETTLE_SECONDS = 0.5
# After it said that it is logged in.
_FILE_SECONDS = 5.0

Files = Mapping[str, Secret[bytes]]


class Progress(Protocol):
    """Where an attempt says how it stands."""

    def note(self, text: str) -> None:
        """A line for the login's log."""

    async def to(self, state: LoginState, message: str, **fields: Any) -> None:
        """The next state, in words for the person."""


class Attempt:
    def __init__(
        self,
        *,
        login_id: str,
        provider: Provider,
        way: LoginWay,
        programs: Programs,
        sandboxes: Sandboxes,
        egress: Egress,
        progress: Progress,
    ) -> None:
        self._login_id = login_id
        self._provider = provider
        self._way = way
        self._programs = programs
        self._sandboxes = sandboxes
        self._egress = egress
        self._progress = progress
        self._dialogue = way.dialogue()
        self._send: Callable[[tuple[bytes, ...]], Awaitable[None]] | None = None
        self._wants_code = False

    async def run(self) -> Files:
        """The CLI's files, once they hold a login. The sandbox is gone by then.

        Raises LoginFailed, and what the sandbox or egress could not do.
        """
        if not self._programs.file(self._provider.program).exists():
            raise ProgramMissing(
                f"{self._provider.title}'s CLI is not installed.",
                remedy="Run `polydev doctor --fix`.",
            )
        await self._progress.to(LoginState.STARTING, "A place for the login is being made.")
        async with await self._sandboxes.open(self._launch) as sandbox:
            make_directories(sandbox.home, self._paths)
            binding = await self._egress.bind(
                connection_id=self._login_id,
                policy=self._provider.policy(Purpose.LOGIN, ""),
                listeners=sandbox.listeners,
                sentinel=None,
                on_exchange=self._saw,
            )
            async with binding:
                process = await sandbox.start()
                self._send = process.send
                await process.send(self._launch(sandbox.place).opening)
                await self._progress.to(LoginState.READY, f"`{self._way.command}` runs.")
                files = await self._until_written(sandbox.home, process)
                await sandbox.close(0)
                return files

    async def paste(self, code: str) -> None:
        """Hands a code to the CLI. Raises InvalidRequest, Conflict when none is waited for."""
        if not self._wants_code or self._send is None:
            raise Conflict(
                "No code is waited for.",
                remedy="Follow the link first, or try again from the start.",
            )
        lines = self._dialogue.paste(code)
        self._progress.note("a code was handed over")
        await self._send(lines)

    @property
    def _paths(self) -> tuple[Any, ...]:
        return (self._provider.credential_file, *self._provider.companion_files)

    def _launch(self, place: Place) -> Launch:
        return self._way.launch(
            LoginOrder(
                place=place,
                program=self._programs.inside(self._provider.program, place),
                node=self._programs.node(place),
            )
        )

    async def _until_written(self, home: Any, process: Process) -> Files:
        talking = asyncio.create_task(self._talk(process))
        writing = asyncio.create_task(self._written(home))
        try:
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
            await asyncio.wait({talking}, timeout=_SETTLE_SECONDS)
            return self._read(home) or files
        finally:
            for task in (talking, writing):
                task.cancel()
            await asyncio.wait({talking, writing})
            for task in (talking, writing):
                if not task.cancelled():
                    task.exception()  # it was raised above, or does not matter any more

    async def _talk(self, process: Process) -> None:
        """Until the CLI says that it is logged in. Raises LoginFailed when it says otherwise."""
        async for line in process.lines():
            step = self._dialogue.receive(line)
            await self._take(step)
            if step.done:
                return
        code = await process.wait()
        await self._take(self._dialogue.ended(code, process.stderr_tail()))

    async def _take(self, step: LoginStep) -> None:
        if step.log:
            self._progress.note(step.log)
        if step.trouble is not None:
            raise LoginFailed(step.message, remedy="Try again.", reason=step.trouble)
        if step.send:
            assert self._send is not None
            await self._send(step.send)
        self._wants_code = self._wants_code or step.wants_code
        if step.link:
            message = "Open the link and log in there."
            if step.user_code:
                message = "Open the link and type the code there."
            elif step.wants_code:
                message = "Open the link, log in there, and paste the code that it shows."
            await self._progress.to(
                LoginState.WAITING_FOR_USER, message, link=step.link, user_code=step.user_code
            )

    async def _written(self, home: Any) -> Files:
        async with aclosing(changes(home, self._paths)) as seen:
            async for _ in seen:
                files = self._read(home)
                if files:
                    return files
        raise LoginFailed("The login's files cannot be watched.", reason=LoginTrouble.INTERNAL)

    def _read(self, home: Any) -> Files:
        """The files of a whole login; empty until there is one."""
        content = read_object(home, self._provider.credential_file)
        if content is None:
            return {}
        files = {str(self._provider.credential_file): content}
        for path in self._provider.companion_files:
            companion = read_file(home, path)
            if companion is not None:
                files[str(path)] = companion
        try:
            self._provider.read_credential(files)
        except CredentialUnreadable:
            return {}
        return files

    def _saw(self, exchange: Exchange) -> None:
        outcome = exchange.refused or exchange.unreachable or str(exchange.status)
        self._progress.note(f"{exchange.method} {exchange.host}{exchange.path}: {outcome}")
