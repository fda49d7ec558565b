"""One byte stream with bounded buffers both ways.

Reading stops at the transport while more than a buffer's worth waits here; `drain` waits while
the peer does not take what was written. `gone` resolves as soon as the peer ended its side or the
connection was lost, also while nobody reads, so a waiting exchange learns of it at once. Reading
or draining a connection that broke raises StreamClosed; an orderly end reads as b"".
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

_BUFFER_BYTES = 128 * 1024
_LINGER_SECONDS = 5
_HANDSHAKE_SECONDS = 15


class StreamClosed(Exception):
    """The connection broke while something was still to be read or written."""


class Stream(asyncio.Protocol):
    """`accepted` is called with the stream once a listener has it connected."""

    def __init__(self, accepted: "Callable[[Stream], None] | None" = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepted = accepted
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._tls = False
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._reading_paused = False
        self._ended = False
        self._lost = False
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._attach(cast("asyncio.Transport", transport))
        if self._accepted:
            self._accepted(self)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        self._hold_back()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._ended = True
        _wake(self._reader)
        _wake(self.gone)
        return not self._tls  # TLS has no half-open state

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if exc is None:
            self._ended = True
        if self._linger:
            self._linger.cancel()
        _wake(self._reader)
        _wake(self._drained)
        _wake(self.gone)

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        _wake(self._drained)
        self._drained = None

    # What its owner calls

    async def read(self) -> bytes:
        """The next bytes as they came; b"" at the end. One reader at a time."""
        while not self._chunks:
            if self._ended:
                return b""
            if self._lost:
                raise StreamClosed
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if self._reading_paused and self._buffered <= _BUFFER_BYTES // 2:
            self._reading_paused = False
            if self._transport and not self._transport.is_closing():
                self._transport.resume_reading()
        return chunk

    def write(self, data: bytes) -> None:
        if self._transport is None or self._lost or self._transport.is_closing():
            raise StreamClosed
        self._transport.write(data)

    async def drain(self) -> None:
        if self._drained is not None:
            await asyncio.shield(self._drained)
        if self._lost:
            raise StreamClosed

    def write_end(self) -> None:
        """Ends our side; the other may still speak where the transport knows half-open."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):
                self._transport.write_eof()
        else:
            self.close()

    def close(self) -> None:
        """Closes after what was written has been taken, or after a short while without."""
        if self._transport is None or self._lost or self._transport.is_closing():
            return
        self._transport.close()
        self._linger = self._loop.call_later(_LINGER_SECONDS, self._transport.abort)

    def abort(self) -> None:
        if self._transport is not None and not self._lost:
            self._transport.abort()

    def is_idle(self) -> bool:
        """Open, with nothing unread."""
        closing = self._transport is None or self._transport.is_closing()
        return not (closing or self._ended or self._lost or self._chunks)

    def descriptor(self) -> int:
        assert self._transport is not None
        number: int = self._transport.get_extra_info("socket").fileno()
        return number

    async def start_tls(self, context: ssl.SSLContext) -> "Stream":
        """The same connection from now on under TLS, we being the server; replaces this stream.

        Call it in the same step as the write after which the peer begins its handshake. Raises
        StreamClosed when the peer goes away or does not accept the certificate.
        """
        try:
            return await self._under_tls(context, server_side=True)
        except (OSError, ssl.SSLError) as error:
            raise StreamClosed from error

    async def start_tls_to(self, context: ssl.SSLContext, host: str) -> "Stream":
        """The same, we being the client and the peer verified as `host`.

        Raises StreamClosed, ssl.SSLError, OSError.
        """
        return await self._under_tls(context, server_hostname=host)

    async def _under_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> "Stream":
        if self._transport is None:
            raise StreamClosed
        inner = Stream()
        inner._tls = True
        transport = await self._loop.start_tls(
            self._transport,
            inner,
            context,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        )
        if transport is None:
            raise StreamClosed
        self._transport = None  # closing this one must not cut what the inner still has to say
        inner._attach(transport)
        return inner

    def _attach(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._tls = self._tls or transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self._hold_back()

    def _hold_back(self) -> None:
        if self._buffered > _BUFFER_BYTES and not self._reading_paused and self._transport:
            self._reading_paused = True
            self._transport.pause_reading()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
