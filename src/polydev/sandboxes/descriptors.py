"""Waiting for descriptors, and content that is handed over as one."""

import asyncio
import os
import socket


async def readable(descriptor: int) -> None:
    """Returns when `descriptor` has something to say, its end included; the caller bounds it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def read_to_end(descriptor: int, most_bytes: int = 65536) -> bytes:
    """What comes from a non-blocking pipe until its end."""
    data = b""
    while len(data) < most_bytes:
        await readable(descriptor)
        part = os.read(descriptor, 4096)
        if not part:
            break
        data += part
    return data


def content_descriptor(content: bytes) -> int:
    """A file in memory that holds `content`, at its beginning."""
    descriptor = os.memfd_create("content")
    try:
        with open(descriptor, "wb", buffering=0, closefd=False) as file:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class Receipt:
    """Tells whether another process read something to its end, or went away without.

    A unix socket with one byte in it: whoever reads it and closes leaves a clean end, whoever
    closes without reading a reset.
    """

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._ours.send(b"\n")
        self._ours.shutdown(socket.SHUT_WR)

    async def taken(self) -> bool:
        await readable(self._ours.fileno())
        try:
            return self._ours.recv(1) == b""
        except ConnectionResetError:
            return False

    def close(self) -> None:
        self._ours.close()
        self.theirs.close()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
