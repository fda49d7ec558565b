"""The ends of a child's standard streams, each with a bound.

`Input` bounds what is written ahead, `Lines` what is read ahead, `Tail` what is kept of the error
output. They are asyncio protocols over real pipes: a CLI may open /dev/stdin, and node truncates
what it prints to a socket when it exits.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

from polydev.errors import RunFailed
from polydev.proc.lines import LineFramer
from polydev.secret import mask_tokens

_QUIET_SECONDS = 0.5
READ_AHEAD_BYTES = 256 * 1024
TAIL_BYTES = 16 * 1024


class Input(asyncio.BaseProtocol):
    """Standard input of a child."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._ready = asyncio.Event()
        self._ready.set()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._ready.set()

    def pause_writing(self) -> None:
        self._ready.clear()

    def resume_writing(self) -> None:
        self._ready.set()

    @property
    def open(self) -> bool:
        return not self.lost and self._transport is not None and not self._transport.is_closing()

    async def write(self, data: bytes) -> bool:
        """Writes, and waits until little is left in the buffer; False when nobody reads."""
        if not self.open:
            return False
        assert self._transport is not None
        self._transport.write(data)
        await self._ready.wait()
        return not self.lost

    def close(self) -> None:
        """The child sees the end once what was written is through."""
        if self._transport is not None and self.open:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None and not self.lost:
            self._transport.abort()


class _Reading(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.ReadTransport | None = None
        self.ended = asyncio.Event()
        self._active = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.ReadTransport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()

    def data_received(self, data: bytes) -> None:
        self._active = True

    def close(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def close_when_quiet(self) -> None:
        """For when the process is gone: closes once a whole interval brought nothing.

        A stream that outlives its process is held by something that left the process group.
        """
        if self.ended.is_set():
            return
        if not self._active:
            self.close()
            return
        self._active = False
        asyncio.get_running_loop().call_later(_QUIET_SECONDS, self.close_when_quiet)


class Lines(_Reading):
    """Standard output of a child as lines, read ahead by no more than a bound."""

    def __init__(self, line_limit_bytes: int) -> None:
        super().__init__()
        self._framer = LineFramer(line_limit_bytes)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._paused = False
        self._failure: RunFailed | None = None
        self._more = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._failure is not None:
            return
        try:
            lines = self._framer.feed(data)
        except RunFailed as failure:
            self._failure = failure
            self.close()
            self._more.set()
            return
        self._put(lines)
        if self._queued_bytes > READ_AHEAD_BYTES and not self._paused:
            self._pause()

    def connection_lost(self, error: Exception | None) -> None:
        self._put(self._framer.finish() if self._failure is None else [])
        super().connection_lost(error)
        self._more.set()

    async def read(self) -> AsyncIterator[bytes]:
        """Each line; ends with the stream. Raises LineTooLong after the lines before it."""
        while True:
            while self._queue:
                line = self._queue.popleft()
                self._queued_bytes -= len(line) + 1
                if self._paused and self._queued_bytes <= READ_AHEAD_BYTES // 2:
                    self._resume()
                yield line
            if self._failure is not None:
                raise self._failure
            if self.ended.is_set():
                return
            self._more.clear()
            await self._more.wait()

    def close_when_quiet(self) -> None:
        # While we do not read, silence says nothing.
        self._active = self._active or self._paused
        super().close_when_quiet()

    def _put(self, lines: list[bytes]) -> None:
        if lines:
            self._queue.extend(lines)
            self._queued_bytes += sum(len(line) + 1 for line in lines)
            self._more.set()

    def _pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._paused = True

    def _resume(self) -> None:
        self._paused = False
        self._active = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()


class Tail(_Reading):
    """Error output of a child: always drained, its last part kept."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = bytearray()
        self._cut = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._kept += data
        if len(self._kept) > TAIL_BYTES:
            del self._kept[:-TAIL_BYTES]
            self._cut = True

    def text(self) -> str:
        """What was kept, with everything that looks like a token masked."""
        text = self._kept.decode(errors="replace")
        if self._cut:
            # The cut may have gone through a token, whose rest has no shape to know it by.
            text = re.sub(r"\A\S*\s?", "… ", text)
        return mask_tokens(text).strip()
