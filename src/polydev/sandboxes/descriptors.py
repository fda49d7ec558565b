"""Waiting for descriptors, and content that is handed over as one."""

import asyncio
import os


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


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
