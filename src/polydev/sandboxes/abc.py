"""The contract of a kind of sandbox.

    async with sandboxes_for(settings, ...) as sandboxes:     # one per gateway
        await sandboxes.reap()
        async with await sandboxes.open(launch_for) as sandbox:
            ...hand sandbox.listeners to egress...
            process = await sandbox.start()

A kind bounds its own waits and cleans up after itself: a failed or cancelled `open` leaves
nothing, and after `close` no process, socket, directory or mount of the sandbox is there, however
its CLI behaves. tests/sandboxes holds the suite that each kind must pass.
"""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from polydev.models.places import Launch, Place
from polydev.proc import Process

LaunchFor = Callable[[Place], Launch]


class Sandbox(Protocol):
    """One isolated place for one CLI. Everything is prepared but the CLI, which `start` starts.

    listeners: sockets that listen, non-blocking, for egress to serve: the unix one, then, when
        the launch needs the port, the loopback one. Egress takes copies; these are closed with
        the sandbox.
    own_network: its loopback is not the host's.
    """

    id: str
    own_network: bool
    place: Place
    listeners: Sequence[socket.socket]

    @property
    def home(self) -> Path:
        """HOME as the host reaches it, while the sandbox is open.

        What lies there is the CLI's: symbolic links in it are not to be followed.
        """

    async def connect(self, port: int) -> socket.socket:
        """A connection to what the CLI listens on, on its own loopback; non-blocking.

        Raises SandboxUnavailable when nothing listens there.
        """

    async def start(self) -> Process:
        """Starts the CLI, once. Raises ProgramMissing, SandboxUnavailable."""

    async def close(self, grace_seconds: float = 1.0) -> None:
        """Ends the CLI (its input ends first, and it gets the grace) and removes everything.

        Bounded; repeatable; finishes although the caller is cancelled.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes."""


class Sandboxes(Protocol):
    """A kind of sandbox. Entering it starts what its sandboxes share, leaving it ends that."""

    name: str

    async def open(self, launch_for: LaunchFor) -> Sandbox:
        """A fresh place with the launch's files in it.

        Raises SandboxUnavailable with the reason and what mends it; ProgramMissing.
        """

    async def reap(self) -> int:
        """Removes what a killed gateway left; how many sandboxes that were.

        Called at start, under the data directory's lock: whatever is there is left over.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
