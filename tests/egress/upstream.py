"""A provider's server that does what a test asks of it by path. TLS, HTTP/1.1, WebSocket."""

import asyncio
import hashlib
import json
import ssl
from dataclasses import dataclass, field
from typing import Any, Self

import h11
from websockets.server import ServerProtocol

from polydev.authority import Authority

TOKENS = {"access_token": "made-up-new-access", "refresh_token": "made-up-new-refresh"}


@dataclass
class Seen:
    connection: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body_bytes: int = 0
    body: bytes = b""

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Front:
    """A port for as long as it is open; what connects to it is served by `behind`."""

    authority: Authority
    hosts: tuple[str, ...]
    behind: "Upstream | None" = None
    port: int = 0
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        context = self.authority.server_context(*self.hosts)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.behind is None:
            writer.transport.abort()
        else:
            await self.behind.accept(reader, writer)


@dataclass
class Upstream:
    """What one test has behind a front.

    `gate` holds answers of /gated and /token back; `closed` is set when a connection ended.
    """

    front: Front
    seen: list[Seen] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    answers: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def port(self) -> int:
        return self.front.port

    async def __aenter__(self) -> Self:
        self.front.behind = self
        return self

    async def __aexit__(self, *_: object) -> None:
        self.front.behind = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        try:
            await _Connection(self, self.connections, reader, writer).serve()
        except (ConnectionError, h11.RemoteProtocolError, ssl.SSLError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            self.closed.set()


class _Connection:
    def __init__(
        self,
        upstream: Upstream,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.upstream, self.number, self.reader, self.writer = upstream, number, reader, writer
        self.http = h11.Connection(h11.SERVER)

    async def event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(65536))
        return event

    async def send(self, *events: Any) -> None:
        for event in events:
            self.writer.write(self.http.send(event) or b"")
        await self.writer.drain()

    async def answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        head = h11.Response(
            status_code=status, headers=[("content-length", str(len(body))), *headers]
        )
        self.upstream.answers += 1
        await self.send(head, h11.Data(data=body), h11.EndOfMessage())

    async def serve(self) -> None:
        while isinstance(request := await self.event(), h11.Request):
            seen = Seen(
                connection=self.number,
                method=request.method.decode(),
                target=request.target.decode(),
                headers=[(k.decode(), v.decode()) for k, v in request.headers.raw_items()],
            )
            path = seen.target.partition("?")[0]
            self.upstream.seen.append(seen)
            self.upstream.arrived.set()
            if seen.header("upgrade"):
                await self.websocket(seen)
                return
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            if path == "/early":
                await self.answer(413, b"too large", ("connection", "close"))
                while await self.reader.read(65536):
                    pass
                return
            digest = hashlib.sha256()
            while isinstance(event := await self.event(), h11.Data):
                seen.body_bytes += len(event.data)
                digest.update(event.data)
                if len(seen.body) < 65536:
                    seen.body += bytes(event.data)
            if not await self.reply(seen, path, digest.hexdigest()):
                return
            if self.http.our_state is not h11.DONE:
                return
            self.http.start_next_cycle()

    async def reply(self, seen: Seen, path: str, digest: str) -> bool:
        gate = self.upstream.gate
        if path.startswith("/big/"):
            size = int(path.removeprefix("/big/"))
            head = h11.Response(status_code=200, headers=[("content-length", str(size))])
            await self.send(head)
            block = bytes(range(256)) * 256
            while size:
                block = block[:size]
                await self.send(h11.Data(data=block))
                size -= len(block)
            await self.send(h11.EndOfMessage())
        elif path == "/gated":  # the first chunk at once, the second when the gate opens
            await self.send(h11.Response(status_code=200, headers=[("x-limit-used", "0.5")]))
            await self.send(h11.Data(data=b"first"))
            await gate.wait()
            await self.send(h11.Data(data=b"second"), h11.EndOfMessage())
        elif path == "/hang":
            await self.reader.read()
            return False
        elif path == "/token":
            await gate.wait()
            await self.answer(200, json.dumps(TOKENS).encode())
        elif path == "/cut":
            await self.send(h11.Response(status_code=200, headers=[]), h11.Data(data=b"half"))
            return False
        elif path == "/silent":
            return False
        elif path == "/close":
            await self.answer(200, b"bye", ("connection", "close"))
        elif path == "/leave":  # promises to stay, and goes
            await self.answer(200, b"bye")
            return False
        elif path.startswith("/status/"):
            status = int(path.removeprefix("/status/"))
            if status in (204, 304):
                await self.send(h11.Response(status_code=status, headers=[]), h11.EndOfMessage())
            else:
                headers = [("retry-after", "7"), ("x-limit-used", "1.0"), ("x-other", "no")]
                await self.answer(status, b"problem", *headers)
        else:
            body = {
                "connection": seen.connection,
                "target": seen.target,
                "method": seen.method,
                "bytes": seen.body_bytes,
                "sha256": digest,
            }
            if seen.method == "HEAD":
                head = h11.Response(status_code=200, headers=[("content-length", "1234")])
                await self.send(head, h11.EndOfMessage())
            else:
                await self.answer(200, json.dumps(body).encode(), ("set-cookie", "a=made-up"))
        return True

    async def websocket(self, seen: Seen) -> None:
        if seen.target == "/ws-refused":
            await self.answer(426, b"use POST")
            return
        protocol = ServerProtocol()
        lines = [f"GET {seen.target} HTTP/1.1", *(f"{k}: {v}" for k, v in seen.headers), "", ""]
        protocol.receive_data("\r\n".join(lines).encode())
        request = protocol.events_received()[0]
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
        while True:
            for data in protocol.data_to_send():
                self.writer.write(data)
            await self.writer.drain()
            if protocol.close_expected():
                return
            data = await self.reader.read(65536)
            if not data:
                return
            protocol.receive_data(data)
            for frame in protocol.events_received():
                if frame.opcode == 2:  # type: ignore[union-attr]
                    protocol.send_binary(frame.data)  # type: ignore[union-attr]
