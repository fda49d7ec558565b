"""Sandboxes by bubblewrap: own namespaces, no root needed, about ten milliseconds each.

`open` lets bwrap prepare everything and start a shell that waits; `start` has it become the CLI.
bwrap dies with us, and everything inside dies with bwrap or, while it waits, with its input; so a
killed gateway leaves only a directory. Where it was killed in the very moment in which bwrap binds
its life to ours, `reap` finds what is left by a variable that only bwrap itself has. Ending one waits until the namespace's first process is gone, by when the kernel has
killed and reaped every other: processes in sessions of their own too. The CLI sees the end of its
input first; a signal that bwrap gets is the end of all at once.

Raises SandboxUnavailable with a reason and remedy (see diagnosis.py) when the machine forbids it.
"""

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from polydev.errors import PolydevError, ProgramMissing, RunFailed, SandboxUnavailable
from polydev.models.places import Launch, Place
from polydev.proc import (
    Process,
    ProcessEnded,
    host_environment,
    require_program,
    run_tool,
    to_the_end,
)
from polydev.sandboxes import diagnosis
from polydev.sandboxes.abc import LaunchFor
from polydev.sandboxes.confinement import (
    OLDEST_VERSION,
    PLACE,
    READY,
    Features,
    Plumbing,
    arguments,
    held_back,
    host_path,
)
from polydev.sandboxes.descriptors import content_descriptor, read_to_end, readable
from polydev.sandboxes.directory import SandboxDirectory, listen_on_socket_file
from polydev.sandboxes.loopback import LoopbackPorts
from polydev.sandboxes.strays import kill_strays

log = structlog.get_logger()

_MARK = "POLYDEV_SANDBOX"
_PREPARE_SECONDS = 20.0
_GONE_SECONDS = 10.0


async def find_bubblewrap() -> tuple[str, tuple[int, ...]]:
    """Where bwrap is, and its version. Raises SandboxUnavailable when missing or too old."""
    bwrap = shutil.which("bwrap", path=host_environment()["PATH"])
    if bwrap is None:
        raise diagnosis.MISSING.error()
    try:
        answer = await run_tool([bwrap, "--version"])
    except ProgramMissing as error:
        raise diagnosis.MISSING.error() from error
    words = " ".join(answer.lines).split()
    version = tuple(int(part) for part in (words or [""])[-1].split(".") if part.isdigit())
    if version < OLDEST_VERSION:
        needed = ".".join(str(part) for part in OLDEST_VERSION)
        raise diagnosis.too_old(" ".join(words[1:]) or "of no known version", needed).error()
    return bwrap, version


class Bubblewrap:
    """The kind. `programs` holds node_modules; `authority` is the PEM file of egress's authority."""

    name = "bubblewrap"

    def __init__(self, *, directory: Path, programs: Path, authority: Path) -> None:
        self._directory = SandboxDirectory(directory.absolute())
        self._programs = programs
        self._authority = authority
        self._ports = LoopbackPorts()
        self._bwrap = ""
        self._features = Features(sizes=False, no_nested_namespaces=False)

    async def __aenter__(self) -> Self:
        self._bwrap, version = await find_bubblewrap()
        self._features = Features.of(version)
        self._directory.prepare()
        await self._ports.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._ports.__aexit__(kind, error, trace)

    async def open(self, launch_for: LaunchFor) -> "BubblewrapSandbox":
        launch = launch_for(PLACE)
        # bwrap would only say so after everything else is prepared, as an exit of the CLI.
        require_program(launch.argv[0], host_path(launch.argv[0], self._programs))
        path = self._directory.make()
        sandbox = BubblewrapSandbox(self._bwrap, self._directory, path, launch, self._ports)
        try:
            async with asyncio.timeout(_PREPARE_SECONDS):
                await sandbox.prepare(
                    features=self._features,
                    programs=self._programs,
                    authority=self._authority,
                )
        except TimeoutError:
            words = sandbox.words()
            await sandbox.close(0)
            raise SandboxUnavailable(
                f"A sandbox was not ready within {_PREPARE_SECONDS:g} seconds. {words}".strip(),
                remedy="The machine is overloaded; lower runs.concurrent.",
                reason="sandbox_late",
            ) from None
        except BaseException:
            await sandbox.close(0)
            raise
        return sandbox

    async def reap(self) -> int:
        left_over = self._directory.left_over()
        for path in left_over:
            await asyncio.to_thread(kill_strays, _MARK, path)
            await self._directory.remove(path)
        return len(left_over)


class BubblewrapSandbox:
    """One of them. Made by `Bubblewrap.open` only."""

    own_network = True
    place: Place = PLACE

    def __init__(
        self,
        bwrap: str,
        directory: SandboxDirectory,
        path: Path,
        launch: Launch,
        ports: LoopbackPorts,
    ) -> None:
        self.id = path.name
        self._bwrap = bwrap
        self.listeners: Sequence[socket.socket] = ()
        self._directory = directory
        self._path = path
        self._launch = launch
        self._ports = ports
        self._process: Process | None = None
        self._first: int | None = None  # pidfd of the namespace's first process
        self._first_pid = 0
        self._home: int | None = None
        self._started = False
        self._closing: asyncio.Task[None] | None = None

    async def prepare(
        self,
        *,
        features: Features,
        programs: Path,
        authority: Path,
    ) -> None:
        """Returns when all is ready but the CLI. What fails here is cleaned up by `close`."""
        egress_socket = self._path / PLACE.egress_socket.name
        self.listeners = (listen_on_socket_file(egress_socket),)
        info, info_writer = os.pipe()
        theirs = [info_writer]

        def content(data: bytes) -> int:
            theirs.append(content_descriptor(data))
            return theirs[-1]

        try:
            try:
                options = arguments(
                    launch=self._launch,
                    programs=programs,
                    authority=_read(authority),
                    egress_socket=egress_socket,
                    plumbing=Plumbing(info=info_writer, content=content),
                    features=features,
                )
                # As a file in memory: the host's process list shows neither options nor values.
                joined = content("\0".join([*options, ""]).encode())
                self._process = await Process.start(
                    [self._bwrap, "--args", str(joined), "--", *held_back(self._launch.argv)],
                    environment={**host_environment(), _MARK: str(self._path)},
                    pass_fds=theirs,
                    name=Path(self._launch.argv[0]).name,
                )
            finally:
                for descriptor in theirs:
                    os.close(descriptor)
            os.set_blocking(info, False)
            pid = await self._first_process(info)
            if self._launch.needs_port:
                try:
                    port = await self._ports.listen(pid, PLACE.egress_port)
                except SandboxUnavailable:
                    await self._ready()  # or else bwrap had failed, and its words say more
                    raise
                self.listeners = (*self.listeners, port)
            await self._ready()
            inside = f"/proc/{pid}/root{PLACE.home}"
            self._home = os.open(inside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(info)

    @property
    def home(self) -> Path:
        # In memory, so that nothing of a login touches the disk; and by a descriptor, so that it is
        # there until the sandbox is closed, also when the CLI has ended and the namespace with it.
        return Path(f"/proc/self/fd/{self._home}")

    async def connect(self, port: int) -> socket.socket:
        # While bwrap runs, the first process has not been reaped, and its id means no other.
        if self._process is None or self._process.returncode is not None:
            raise SandboxUnavailable(
                "The CLI has ended, and nothing listens in its sandbox any more.",
                remedy="Try again from the start.",
                reason="no_loopback_port",
            )
        return await self._ports.connect(self._first_pid, port)

    async def start(self) -> Process:
        if self._started or self._closing is not None or self._process is None:
            raise SandboxUnavailable(
                "This sandbox was started before, or is closed.",
                remedy="Open another one.",
                reason="sandbox_used",
            )
        self._started = True
        try:
            if self._process.returncode is not None:
                raise ProcessEnded(self._process.program)
            await self._process.send([b""], timeout_seconds=_PREPARE_SECONDS)
        except RunFailed as error:
            raise SandboxUnavailable(
                f"The sandbox ended while it waited to be used. {self.words()}".strip(),
                remedy="Nothing was lost; ask again.",
                reason="sandbox_ended",
            ) from error
        return self._process

    def words(self) -> str:
        """What bwrap and the CLI wrote to their error output."""
        return self._process.stderr_tail() if self._process is not None else ""

    async def close(self, grace_seconds: float = 1.0) -> None:
        if self._closing is None:
            grace_seconds = grace_seconds if self._started else 0
            self._closing = asyncio.create_task(self._close(grace_seconds))
        await to_the_end(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _close(self, grace_seconds: float) -> None:
        try:
            if self._process is not None:
                await self._process.stop(grace_seconds)
            if self._first is not None:
                await self._all_gone(self._first)
        finally:
            for descriptor in (self._first, self._home):
                if descriptor is not None:
                    os.close(descriptor)
            self._first = self._home = None
            for listener in self.listeners:
                listener.close()
            await self._directory.remove(self._path)

    async def _all_gone(self, first: int) -> None:
        try:
            async with asyncio.timeout(_GONE_SECONDS):
                await readable(first)
        except TimeoutError:
            log.error("processes of a sandbox do not end", sandbox=self.id)

    async def _first_process(self, info: int) -> int:
        try:
            pid = int(json.loads(await read_to_end(info))["child-pid"])
            self._first = os.pidfd_open(pid)
            self._first_pid = pid
        except (ValueError, KeyError, ProcessLookupError):
            raise await self._failure() from None
        return pid

    async def _ready(self) -> None:
        assert self._process is not None
        async for line in self._process.lines():
            if line == READY:
                return
        raise await self._failure()

    async def _failure(self) -> PolydevError:
        """Why bwrap ended, by its own words."""
        assert self._process is not None
        try:
            async with asyncio.timeout(_GONE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            log.error("bubblewrap failed but does not end", sandbox=self.id)
        kernel = diagnosis.read_kernel()
        return diagnosis.diagnose(self.words(), kernel, bwrap=self._bwrap).error()


def _read(authority: Path) -> bytes:
    try:
        return authority.read_bytes()
    except OSError as error:
        raise RunFailed(
            f"{authority} cannot be read: {error.strerror}.",
            remedy="Restart polydev; it makes its certificate authority anew.",
            reason="authority_unreadable",
        ) from error
