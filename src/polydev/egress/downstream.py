"""HTTP/1.1 towards the sandbox, on one stream.

Malformed requests raise h11.RemoteProtocolError, whose hint is the status to answer with; a
sandbox that goes away, or is too slow, raises StreamClosed.
"""

import asyncio
import json
from collections.abc import AsyncGenerator

import h11

from polydev.egress.headers import Headers
from polydev.egress.stream import Stream, StreamClosed
from polydev.egress.upstream import HEAD_BYTES, head_bytes

_HEAD_SECONDS = 30
_IDLE_SECONDS = 900  # a CLI that was started ahead may hold a connection for long
_BODY_SECONDS = 300
_WRITE_SECONDS = 300
_LINGER_SECONDS = 2
_LINGER_BYTES = 16 * 2**20


class Downstream:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._lingered = False

    async def request(self) -> h11.Request | None:
        """The head of the next request; None when the sandbox has no more."""
        event = self.http.next_event()
        if event is h11.NEED_DATA:
            await self._more(_IDLE_SECONDS)
            try:
                async with asyncio.timeout(_HEAD_SECONDS):
                    while (event := self.http.next_event()) is h11.NEED_DATA:
                        self.http.receive_data(await self.stream.read())
            except TimeoutError as error:
                raise StreamClosed from error
        if not isinstance(event, h11.Request):
            return None
        if head_bytes(event) + len(event.target) > HEAD_BYTES:
            raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
        return event

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The body of the request, as it comes; asks for it where the sandbox waits to be asked."""
        if self.http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self.stream.write(self.http.send(go_on) or b"")
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                await self._more(_BODY_SECONDS)
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise StreamClosed

    async def whole_body(self, limit: int) -> bytes | None:
        """The body at once; None when it is larger than `limit`."""
        body = bytearray()
        async for chunk in self.body():
            body += chunk
            if len(body) > limit:
                return None
        return bytes(body)

    async def flush(self, data: bytes) -> None:
        self.stream.write(data)
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await self.stream.drain()
        except TimeoutError as error:
            self.stream.abort()
            raise StreamClosed from error

    async def answer(
        self, status: int, headers: Headers, body: bytes, *, reason: bytes = b""
    ) -> None:
        """A whole answer. `headers` hold no framing."""
        framed = [*headers, (b"content-length", str(len(body)).encode())]
        head = h11.Response(status_code=status, headers=framed, reason=reason)
        data = self.http.send(head) or b""
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        data += self.http.send(h11.EndOfMessage()) or b""
        await self.flush(data)

    async def refuse(self, status: int, message: str) -> None:
        """An error of egress itself; the connection ends with it."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.stream.abort()
            return
        error = {"error": {"type": "polydev_egress", "message": message}}
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        self._lingered = self.http.they_are_waiting_for_100_continue  # then no body comes
        await self.answer(status, headers, json.dumps(error).encode())
        await self.linger()

    def next_cycle(self) -> bool:
        """Whether another request may follow on this connection."""
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
            return True
        return False

    async def linger(self) -> None:
        """Takes what the sandbox is still sending: closing on it would reset our answer away."""
        if self._lingered or self.http.their_state is not h11.SEND_BODY:
            return
        self._lingered = True
        taken = 0
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                async for chunk in self.body():
                    taken += len(chunk)
                    if taken > _LINGER_BYTES:
                        return
        except (TimeoutError, StreamClosed, h11.RemoteProtocolError):
            return

    async def _more(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                self.http.receive_data(await self.stream.read())
        except TimeoutError as error:
            raise StreamClosed from error
