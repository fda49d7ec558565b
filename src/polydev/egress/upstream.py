"""Connections to providers, kept alive for the next request of the same connection.

Two polydev connections never share one, nor do two ways out: they are kept by (connection id,
host, outbound proxy). A kept one that the server closed, or spoke on unasked, is thrown away before it is reused. Nothing here sends a
request a second time: once a byte of it is written, a failure is the exchange's to report.
"""

import asyncio
import select
from collections.abc import Awaitable, Callable

import h11

from polydev.egress.refusal import Unreachable
from polydev.egress.stream import Stream, StreamClosed
from polydev.models.proxies import Proxy

HEAD_BYTES = 64 * 1024
_READ_SECONDS = 300
_WRITE_SECONDS = 300
_IDLE_SECONDS = 55  # below the minute after which front ends commonly close
_MOST_IDLE_EACH = 8
_MOST_IDLE = 256

Key = tuple[str, str, Proxy | None]


class Upstream:
    """One connection to a provider and where its HTTP stands."""

    def __init__(self, stream: Stream, key: Key, generation: int) -> None:
        self.stream = stream
        self.key = key
        self.generation = generation
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._idle_timer: asyncio.TimerHandle | None = None
        self._on_gone: Callable[[asyncio.Future[None]], None] | None = None

    async def send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        """Raises StreamClosed when upstream is gone: an answer may yet have come before that."""
        data = self.http.send(event)
        if data:
            self.stream.write(data)
            await self._drain()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await self.stream.drain()
        except TimeoutError as error:
            raise Unreachable("upstream stopped taking the request", status=504) from error

    async def more(self) -> bool:
        """Waits for bytes and gives them to `http`; False at the end.

        Raises Unreachable when none come in time.
        """
        try:
            async with asyncio.timeout(_READ_SECONDS):
                data = await self.stream.read()
        except TimeoutError as error:
            raise Unreachable("upstream sent nothing for too long", status=504) from error
        except StreamClosed as error:
            raise Unreachable("upstream broke the connection") from error
        self.http.receive_data(data)
        return bool(data)

    async def head(self) -> h11.Response | h11.InformationalResponse:
        """The head of the answer: a final one, or 101.

        Raises Unreachable when the connection ends or breaks the protocol before it.
        """
        ended = False
        try:
            while True:
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    ended = not await self.more()
                elif isinstance(event, h11.Response):
                    if head_bytes(event) > HEAD_BYTES:
                        raise Unreachable("upstream's answer has too large a head")
                    return event
                elif isinstance(event, h11.InformationalResponse):
                    if event.status_code == 101:
                        return event
                else:
                    raise Unreachable("upstream closed the connection without an answer")
        except h11.RemoteProtocolError as error:
            if ended:
                raise Unreachable("upstream closed the connection without an answer") from error
            raise Unreachable("upstream sent no valid HTTP answer") from error

    def next_part(self) -> h11.Data | h11.EndOfMessage | None:
        """The next part of the answer's body; None when `more` is to be awaited first.

        Raises Unreachable when the answer was cut off.
        """
        try:
            event = self.http.next_event()
        except h11.RemoteProtocolError as error:
            raise Unreachable("upstream cut its answer off") from error
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, (h11.Data, h11.EndOfMessage)):
            return event
        raise Unreachable("upstream cut its answer off")

    async def whole_body(self, limit: int) -> bytes:
        body = bytearray()
        while True:
            part = self.next_part()
            if part is None:
                await self.more()
            elif isinstance(part, h11.EndOfMessage):
                return bytes(body)
            else:
                body += part.data
                if len(body) > limit:
                    raise Unreachable("upstream's answer is larger than such an answer can be")

    def is_reusable(self) -> bool:
        if self.http.our_state is not h11.IDLE or not self.stream.is_idle():
            return False
        # What the kernel holds but the event loop has not delivered yet: an end, or a surprise.
        poll = select.poll()
        poll.register(self.stream.descriptor(), select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)

    def watch_idle(self, seconds: float, discard: "Callable[[Upstream], None]") -> None:
        """Calls `discard` when the server goes, or when it was idle for so long."""
        loop = asyncio.get_running_loop()
        self._idle_timer = loop.call_later(seconds, discard, self)
        self._on_gone = lambda _: discard(self)
        self.stream.gone.add_done_callback(self._on_gone)

    def unwatch_idle(self) -> None:
        if self._idle_timer and self._on_gone:
            self._idle_timer.cancel()
            self.stream.gone.remove_done_callback(self._on_gone)
            self._idle_timer = self._on_gone = None


def head_bytes(event: h11.Request | h11.Response) -> int:
    """About the size of a head. h11 bounds only one that is still incomplete."""
    return sum(len(name) + len(value) + 4 for name, value in event.headers)


class Pool:
    def __init__(self, dial: Callable[[str, Proxy | None], Awaitable[Stream]]) -> None:
        self._dial = dial
        self._idle: dict[Key, list[Upstream]] = {}
        self._generations: dict[str, int] = {}

    async def take(self, connection_id: str, host: str, proxy: Proxy | None) -> Upstream:
        """A connection on which nothing is under way. Raises Refused or Unreachable."""
        key = (connection_id, host, proxy)
        while kept := self._idle.get(key):
            upstream = kept[-1]
            self._drop(upstream)
            if upstream.is_reusable():
                return upstream
            upstream.stream.abort()
        generation = self._generations.get(connection_id, 0)
        return Upstream(await self._dial(host, proxy), key, generation)

    def give_back(self, upstream: Upstream) -> None:
        """Keeps the connection for the next request when it can carry one; else closes it."""
        http = upstream.http
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        current = self._generations.get(upstream.key[0], 0) == upstream.generation
        kept = self._idle.setdefault(upstream.key, [])
        room = len(kept) < _MOST_IDLE_EACH and self._count() < _MOST_IDLE
        if not (current and room and http.our_state is h11.IDLE and upstream.stream.is_idle()):
            upstream.stream.abort()
            if not kept:
                del self._idle[upstream.key]
            return
        kept.append(upstream)
        upstream.watch_idle(_IDLE_SECONDS, self._discard)

    def forget(self, connection_id: str) -> None:
        """Closes what is kept for a connection; what is in use closes after its exchange."""
        self._generations[connection_id] = self._generations.get(connection_id, 0) + 1
        for key in [key for key in self._idle if key[0] == connection_id]:
            for upstream in list(self._idle[key]):
                self._discard(upstream)

    def close(self) -> None:
        for kept in list(self._idle.values()):
            for upstream in list(kept):
                self._discard(upstream)

    def _count(self) -> int:
        return sum(len(kept) for kept in self._idle.values())

    def _discard(self, upstream: Upstream) -> None:
        self._drop(upstream)
        upstream.stream.abort()

    def _drop(self, upstream: Upstream) -> None:
        upstream.unwatch_idle()
        kept = self._idle.get(upstream.key, [])
        if upstream in kept:
            kept.remove(upstream)
            if not kept:
                del self._idle[upstream.key]
