"""Sockets on 127.0.0.1 inside a sandbox's network namespace, made from outside.

Egress serves those that listen as it serves the unix socket; nothing else of a network is in there.
Those that are connected reach what a CLI itself listens on. The work is done by loopback_helper.py, one small process per gateway, restarted when it died. Raises
SandboxUnavailable when no socket comes within five seconds.
"""

import asyncio
import itertools
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from polydev.errors import SandboxUnavailable
from polydev.proc import Process, host_environment, to_the_end
from polydev.sandboxes.descriptors import readable

log = structlog.get_logger()

_HELPER = Path(__file__).with_name("loopback_helper.py")
_ANSWER_SECONDS = 5.0


class LoopbackPorts:
    """Starts with its first use, ends when left."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._one_at_a_time = asyncio.Lock()
        self._process: Process | None = None
        self._control: socket.socket | None = None

    async def __aenter__(self) -> Self:
        async with self._one_at_a_time:
            await self._ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await to_the_end(self._end())

    async def listen(self, pid: int, port: int) -> socket.socket:
        """A socket that listens on `port` in the network namespace of the process `pid`."""
        return await self._open("listen", pid, port)

    async def connect(self, pid: int, port: int) -> socket.socket:
        """A socket connected to `port` in there. SandboxUnavailable when nothing listens on it."""
        return await self._open("connect", pid, port)

    async def _open(self, what: str, pid: int, port: int) -> socket.socket:
        async with self._one_at_a_time:
            control = await self._ready()
            number = next(self._numbers)
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    control.send(f"{number} {what} {pid} {port}".encode())
                    return await _answer(control, number)
            except (OSError, TimeoutError) as error:
                words = self._process.stderr_tail() if self._process else ""
                await to_the_end(self._end())
                raise _no_port(str(error) or "it did not answer in time", words) from error

    async def _ready(self) -> socket.socket:
        if self._process is not None and self._process.returncode is not None:
            log.warning("the loopback helper ended", words=self._process.stderr_tail())
            await self._end()
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            with theirs:
                try:
                    self._process = await Process.start(
                        [sys.executable, "-I", "-S", str(_HELPER), str(theirs.fileno())],
                        environment=host_environment(),
                        pass_fds=[theirs.fileno()],
                    )
                except BaseException:
                    ours.close()
                    raise
            self._control = ours
        return self._control

    async def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            await self._process.stop(grace_seconds=1.0)
            self._process = None


async def _answer(control: socket.socket, number: int) -> socket.socket:
    while True:
        await readable(control.fileno())
        packet, descriptors, _, _ = socket.recv_fds(control, 512, 1, socket.MSG_CMSG_CLOEXEC)
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if not packet:
            raise OSError("the helper ended")
        answered, _, word = packet.decode(errors="replace").partition(" ")
        if answered != str(number):
            # The answer to a request whose caller was cancelled.
            for late in sockets:
                late.close()
            continue
        if word != "ok" or not sockets:
            raise _no_port(word)
        sockets[0].setblocking(False)
        return sockets[0]


def _no_port(why: str, words: str = "") -> SandboxUnavailable:
    return SandboxUnavailable(
        f"A port inside the sandbox cannot be used: {why}. {words}".strip(),
        remedy="Run `polydev doctor`; it says what this machine's kernel forbids.",
        reason="no_loopback_port",
    )
