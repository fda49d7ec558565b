"""Copies bytes both ways between two streams in constant memory, reading none of them.

Ends when both sides ended, when either broke, or when nothing moved for long; both are closed
then. After one side ended, the other has a short while to finish what it was saying.
"""

import asyncio

from polydev.egress.stream import Stream, StreamClosed

_IDLE_SECONDS = 3600.0
_HALF_OPEN_SECONDS = 30.0


async def relay(
    left: Stream, right: Stream, *, to_left: bytes = b"", to_right: bytes = b""
) -> None:
    """`to_left` and `to_right` are bytes that arrived before the copying began."""
    watch = _Watch(left, right)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(left, right, to_right, watch))
            both.create_task(_copy(right, left, to_left, watch))
    except* StreamClosed:
        left.abort()
        right.abort()
    finally:
        watch.stop()
        left.close()
        right.close()


async def _copy(source: Stream, target: Stream, ahead: bytes, watch: "_Watch") -> None:
    if ahead:
        target.write(ahead)
    while data := await source.read():
        watch.moved()
        target.write(data)
        await target.drain()
    watch.half_open()
    target.write_end()


class _Watch:
    """Aborts both streams when nothing moved for a while."""

    def __init__(self, *streams: Stream) -> None:
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._limit = _IDLE_SECONDS
        self._moved_at = self._loop.time()
        self._timer = self._loop.call_later(self._limit, self._look)

    def moved(self) -> None:
        self._moved_at = self._loop.time()

    def half_open(self) -> None:
        self._limit = _HALF_OPEN_SECONDS
        self.moved()
        self._timer.cancel()
        self._timer = self._loop.call_later(self._limit, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._moved_at + self._limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
            return
        for stream in self._streams:
            stream.abort()
