"""What is looked at over VNC is a screen, or a clear error."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from polydev.desktop.rfb import Screen
from polydev.errors import SandboxUnavailable

pytestmark = pytest.mark.anyio

HELLO = b"RFB 003.008\n\x01\x01" + bytes(4)
SIZE = struct.pack(">HH16sI", 3, 2, bytes(16), 4) + b"name"


@asynccontextmanager
async def screen(said: bytes) -> AsyncIterator[Screen]:
    """What is opened where a server says this and then ends."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            async with asyncio.timeout(10):
                yield await Screen.open(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def update(place: tuple[int, int, int, int], colour: int, encoding: int = 0) -> bytes:
    x, y, width, height = place
    head = struct.pack(">BxHHHHHi", 0, 1, x, y, width, height, encoding)
    return head + bytes([colour]) * (width * height * 4)


async def test_a_picture_is_put_together() -> None:
    said = HELLO + SIZE + b"\x02" + struct.pack(">BxxxI", 3, 4) + b"copy"
    async with screen(said + update((1, 0, 2, 2), 7)) as seen:
        picture = await seen.picture()
        assert (picture.width, picture.height) == (3, 2)
        assert picture.pixels == (bytes(4) + b"\7" * 8) * 2
        assert seen.cut_text == b"copy"


async def test_a_screen_of_one_colour_is_not_drawn_yet() -> None:
    said = HELLO + SIZE + update((0, 0, 3, 2), 9) + update((0, 0, 1, 1), 5)
    async with screen(said) as seen:
        assert not (await seen.drawn()).is_uniform


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-made-up\r\n",
        b"RFB 003.008\n\x01\x02",
        b"RFB 003.008\n\x01\x01\x00\x00\x00\x01",
        HELLO + SIZE[:7],
        HELLO + SIZE + update((2, 0, 2, 1), 1),
        HELLO + SIZE + update((0, 0, 1, 1), 1, encoding=7),
        HELLO + SIZE + b"\xff",
        HELLO + SIZE + update((0, 0, 3, 2), 9),  # and never anything more
    ],
)
async def test_what_is_no_screen_is_told(said: bytes) -> None:
    with pytest.raises(SandboxUnavailable) as caught:
        async with screen(said) as seen:
            await seen.drawn()
    assert caught.value.reason == "desktop_screen"
    assert caught.value.remedy
