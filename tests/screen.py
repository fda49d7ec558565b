"""A person before a remote desktop: looks at its screen, types, clicks, keeps a picture."""

import asyncio
import contextlib
import struct
import zlib
from pathlib import Path

from polydev.desktop.rfb import Picture, Screen

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
TAB, RETURN = 0xFF09, 0xFF0D
_SHIFT, _CONTROL = 0xFFE1, 0xFFE3


def keep(picture: Picture, name: str) -> Path:
    """Writes it as a PNG under build/screenshots."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    rgb = bytearray(picture.width * picture.height * 3)
    for at in range(3):
        rgb[at::3] = picture.pixels[2 - at :: 4]
    stride = picture.width * 3
    lines = b"".join(b"\0" + rgb[at : at + stride] for at in range(0, len(rgb), stride))
    head = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + _chunk(b"IDAT", zlib.compress(lines, 1))
        + _chunk(b"IEND", b"")
    )
    return path


def colours(picture: Picture, *, step: int = 7) -> int:
    """How many different colours a sample of it has."""
    return len(set(struct.unpack(f"<{picture.width * picture.height}I", picture.pixels)[::step]))


class Onlooker:
    """Someone with a screen, a keyboard and a mouse; close it in the end."""

    def __init__(self, screen: Screen, writer: asyncio.StreamWriter) -> None:
        self.screen = screen
        self._writer = writer

    @classmethod
    async def at(cls, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> "Onlooker":
        async with asyncio.timeout(10):
            return cls(await Screen.open(*streams), streams[1])

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def picture(self) -> Picture:
        async with asyncio.timeout(10):
            return await self.screen.picture()

    async def type(self, text: str, *, enter: bool = False) -> None:
        for character in text:
            await self.press(ord(character))
        if enter:
            await self.press(RETURN)

    async def press(self, key: int) -> None:
        """key: an X keysym."""
        for down in (1, 0):
            self._key(down, key)
        await self._writer.drain()

    async def press_with_control_and_shift(self, key: int) -> None:
        for down, one in (
            (1, _CONTROL),
            (1, _SHIFT),
            (1, key),
            (0, key),
            (0, _SHIFT),
            (0, _CONTROL),
        ):
            self._key(down, one)
        await self._writer.drain()

    def _key(self, down: int, key: int) -> None:
        self._writer.write(struct.pack(">BBxxI", 4, down, key))

    async def click(self, x: int, y: int) -> None:
        for buttons in (0, 1, 0):
            self._writer.write(struct.pack(">BBHH", 5, buttons, x, y))
        await self._writer.drain()

    async def cut(self, text: str) -> None:
        """Puts it on the clipboard there."""
        data = text.encode("latin-1")
        self._writer.write(struct.pack(">BxxxI", 6, len(data)) + data)
        await self._writer.drain()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
