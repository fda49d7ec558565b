"""Little outbound proxies that do what a test asks of them: HTTP CONNECT, within TLS too, and SOCKS5."""

import asyncio
import base64
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Any, Self

# What they do in place of connecting.
REFUSES, HANGS, BABBLES, LEAVES, ADDS = "refuses", "hangs", "babbles", "leaves", "adds"


@dataclass
class LittleProxy:
    """`asked` is what it was to connect to; `target` is what it connects to in place of that.

    Use as an async context manager; it may be entered again, and is on the same port then.
    """

    kind: str
    login: tuple[str, str] | None = None
    does: str = ""
    target: tuple[str, int] | None = None
    context: ssl.SSLContext | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def address(self) -> str:
        """As it is configured, with the login that it wants."""
        login = "{}:{}@".format(*self.login) if self.login else ""
        return f"{self.kind}://{login}{'localhost' if self.context else '127.0.0.1'}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, ssl=self.context
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            speak = self._socks5 if self.kind == "socks5" else self._connect
            if await speak(reader, writer):
                if self.does == ADDS:
                    await reader.read()  # until it is given up
                else:
                    await self._carry(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # nobody but the end of the proxy cancels
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(AttributeError):  # of 3.11's TLS, whose connection is lost
                writer.transport.abort()

    async def _misbehaves(self, writer: asyncio.StreamWriter) -> bool:
        if self.does == HANGS:
            self.hanging.set()
            await asyncio.Event().wait()
        if self.does == BABBLES:
            writer.write(b"\x7f what? \r\n\r\n" * 3)
            await writer.drain()
        return self.does in (BABBLES, LEAVES)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if await self._misbehaves(writer):
            return False
        line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
        method, authority, version = line.split(" ")
        assert (method, version, headers["host"]) == ("CONNECT", "HTTP/1.1", authority)
        if self.login:
            shown = headers.get("proxy-authorization", "").removeprefix("Basic ")
            user, _, password = base64.b64decode(shown).decode().partition(":")
            self.logins.append((user, password))
            if (user, password) != self.login:
                writer.write(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n")
                return False
        else:
            assert "proxy-authorization" not in headers
        host, _, port = authority.rpartition(":")
        self.asked.append((host.strip("[]"), int(port)))
        if self.does == REFUSES:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope")
            return False
        more = b"and more" if self.does == ADDS else b""
        writer.write(b"HTTP/1.1 200 Go on\r\nVia: made-up\r\n\r\n" + more)
        return True

    async def _socks5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        assert version == 5
        if await self._misbehaves(writer):
            return False
        wanted = 2 if self.login else 0
        if wanted not in methods:
            writer.write(b"\x05\xff")
            return False
        writer.write(bytes([5, wanted]))
        if self.login:
            _, length = await reader.readexactly(2)
            user = (await reader.readexactly(length)).decode()
            [length] = await reader.readexactly(1)
            password = (await reader.readexactly(length)).decode()
            self.logins.append((user, password))
            if (user, password) != self.login:
                writer.write(b"\x01\x01")
                return False
            writer.write(b"\x01\x00")
        *start, kind = await reader.readexactly(4)
        assert start == [5, 1, 0]
        if kind == 3:
            [length] = await reader.readexactly(1)
            host = (await reader.readexactly(length)).decode()
        else:
            packed = await reader.readexactly(4 if kind == 1 else 16)
            host = ".".join(map(str, packed)) if kind == 1 else packed.hex(":", 2)
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append((host, port))
        if self.does == REFUSES:
            writer.write(b"\x05\x02\x00\x01" + bytes(6))
            return False
        more = b"and more" if self.does == ADDS else b""
        writer.write(b"\x05\x00\x00\x03\x03abc\x00\x50" + more)  # a name has its own length
        return True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.target or self.asked[-1]
        there_reader, there_writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, there_writer))
                both.create_task(_copy(there_reader, writer))
        except* OSError:
            pass
        finally:
            there_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()
