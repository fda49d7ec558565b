"""No sandbox: a directory of its own and an environment of its own, and nothing that protects.

For machines without namespaces, chosen by `sandbox.kind = "none"` and never silently: it warns at
every start of a CLI. A CLI can read what its user can read and reach what the machine reaches. What
is the same: the files, the allowlist of variables, the listeners for egress (the port is on the
host's own loopback), and that nothing is left after `close`. A killed gateway's CLIs die with it
where setpriv exists; what left them is killed by `reap`, at the next start.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import structlog

from polydev.errors import SandboxUnavailable
from polydev.models.places import Launch, Place
from polydev.proc import Process, child_environment, host_environment, require_program, to_the_end
from polydev.sandboxes.abc import LaunchFor
from polydev.sandboxes.confinement import file_under_home
from polydev.sandboxes.directory import (
    SOCKET_PATH_LIMIT,
    SandboxDirectory,
    listen_on_socket_file,
)
from polydev.sandboxes.strays import kill_strays

log = structlog.get_logger()

_BACKLOG = 256


class Unprotected:
    """The kind. `programs` holds node_modules; `authority` is the PEM file of egress's authority."""

    name = "none"

    def __init__(self, *, directory: Path, programs: Path, authority: Path) -> None:
        self._directory = SandboxDirectory(directory.absolute())
        self._programs = programs.absolute()
        self._authority = authority.absolute()
        self._setpriv: str | None = None

    async def __aenter__(self) -> Self:
        self._directory.prepare()
        self._setpriv = shutil.which("setpriv", path=host_environment()["PATH"])
        log.warning("sandbox.kind is none: CLIs run unprotected, with all that this user can do")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    async def open(self, launch_for: LaunchFor) -> "UnprotectedSandbox":
        path = self._directory.make()
        port = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sandbox = UnprotectedSandbox(self._directory, path, port, self._setpriv)
        try:
            port.bind(("127.0.0.1", 0))
            port.listen(_BACKLOG)
            port.setblocking(False)
            sandbox.place = self._place(path, port.getsockname()[1])
            sandbox.prepare(launch_for(sandbox.place))
        except OSError as error:
            await sandbox.close(0)
            raise SandboxUnavailable(
                f"A place for the CLI could not be made: {error.strerror or error}.",
                remedy="Free disk space, memory or ports.",
                reason="directory_unusable",
            ) from error
        except BaseException:
            await sandbox.close(0)
            raise
        return sandbox

    async def reap(self) -> int:
        left_over = self._directory.left_over()
        for path in left_over:
            await asyncio.to_thread(kill_strays, "HOME", path / "home")
            await self._directory.remove(path)
        return len(left_over)

    def _place(self, path: Path, port: int) -> Place:
        egress_socket = path / "egress.sock"
        if len(os.fsencode(egress_socket)) > SOCKET_PATH_LIMIT:
            raise SandboxUnavailable(
                f"{egress_socket} is too long a path for a socket.",
                remedy="Point POLYDEV_DATA at a shorter path.",
                reason="path_too_long",
            )
        return Place(
            home=PurePosixPath(path / "home"),
            workspace=PurePosixPath(path / "workspace"),
            programs=PurePosixPath(self._programs),
            egress_socket=PurePosixPath(egress_socket),
            egress_port=port,
            authority=PurePosixPath(self._authority),
        )


class UnprotectedSandbox:
    """One of them. Made by `Unprotected.open` only."""

    own_network = False
    place: Place

    def __init__(
        self, directory: SandboxDirectory, path: Path, port: socket.socket, setpriv: str | None
    ) -> None:
        self.id = path.name
        self.listeners: Sequence[socket.socket] = (port,)
        self._directory = directory
        self._path = path
        self._setpriv = setpriv
        self._launch: Launch | None = None
        self._process: Process | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def home(self) -> Path:
        return self._path / "home"

    async def connect(self, port: int) -> socket.socket:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(found, ("127.0.0.1", port))
        except OSError as error:
            found.close()
            raise SandboxUnavailable(
                f"Nothing listens on port {port}: {error.strerror or error}.",
                remedy="The CLI may have ended; try again.",
                reason="no_loopback_port",
            ) from error
        return found

    def prepare(self, launch: Launch) -> None:
        """Writes what the CLI finds. What fails here is cleaned up by `close`."""
        require_program(launch.argv[0], Path(launch.argv[0]))
        if launch.desktop:
            raise SandboxUnavailable(
                "A desktop needs a sandbox, and sandbox.kind is none.",
                remedy="Log in by another method, or unset POLYDEV_SANDBOX__KIND.",
                reason="no_desktop",
            )
        self._launch = launch
        for name in ("home", "workspace", "tmp"):
            (self._path / name).mkdir(mode=0o700)
        for name, content in launch.files.items():
            path = self._path / "home" / file_under_home(name)
            for parent in reversed(path.relative_to(self._path / "home").parents):
                (self._path / "home" / parent).mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o700 if name in launch.executable else 0o600, exist_ok=False)
            path.write_bytes(content.reveal())
        (port,) = self.listeners
        unix = listen_on_socket_file(Path(self.place.egress_socket))
        if launch.needs_port:
            self.listeners = (unix, port)
        else:
            port.close()
            self.listeners = (unix,)

    async def start(self) -> Process:
        if self._launch is None or self._process is not None or self._closing is not None:
            raise SandboxUnavailable(
                "This sandbox was started before, or is closed.",
                remedy="Open another one.",
                reason="sandbox_used",
            )
        log.warning("a CLI starts unprotected: sandbox.kind is none", sandbox=self.id)
        bound = (self._setpriv, "--pdeathsig", "KILL", "--") if self._setpriv else ()
        environment = {
            **child_environment(self.place.home, host_environment()["PATH"]),
            "TMPDIR": str(self._path / "tmp"),
            **self._launch.environment,
        }
        self._process = await Process.start(
            [*bound, *self._launch.argv],
            environment=environment,
            directory=Path(self.place.workspace),
            name=Path(self._launch.argv[0]).name,
        )
        return self._process

    async def close(self, grace_seconds: float = 1.0) -> None:
        if self._closing is None:
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
                await asyncio.to_thread(kill_strays, "HOME", self._path / "home")
        finally:
            for listener in self.listeners:
                listener.close()
            await self._directory.remove(self._path)
