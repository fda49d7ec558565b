"""Looks at a screen over VNC: the handshake, its size, its picture (RFC 6143).

Raises SandboxUnavailable when what answers is no such screen; the caller bounds the waits.
"""

import asyncio
import struct
from dataclasses import dataclass
from typing import Self

from polydev.errors import SandboxUnavailable

_VERSION = b"RFB 003.008\n"
_NO_SECURITY = 1
_RAW = 0
_UPDATE, _COLOURS, _BELL, _CUT_TEXT = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """pixels: four bytes each (blue, green, red, nothing), line by line."""

    width: int
    height: int
    pixels: bytes

    @property
    def is_uniform(self) -> bool:
        """Whether it is of one colour: nothing is drawn yet."""
        return self.pixels == self.pixels[:4] * (self.width * self.height)


class Screen:
    """One connection to a screen, beside others. Made by `open`, which leaves the streams open."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, width: int, height: int
    ) -> None:
        self.width = width
        self.height = height
        self.cut_text = b""  # what was last copied there
        self._reader = reader
        self._writer = writer
        self._pixels = bytearray(width * height * 4)

    @classmethod
    async def open(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Self:
        """Speaks the handshake."""
        try:
            return await cls._open(reader, writer)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise _unusable("it closed the connection") from error

    @classmethod
    async def _open(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Self:
        if await reader.readexactly(len(_VERSION)) != _VERSION:
            raise _unusable("it speaks another protocol")
        writer.write(_VERSION)
        kinds = await reader.readexactly((await reader.readexactly(1))[0])
        if _NO_SECURITY not in kinds:
            raise _unusable("it wants a password")
        writer.write(bytes([_NO_SECURITY]))
        if await reader.readexactly(4) != bytes(4):
            raise _unusable("it refused the connection")
        writer.write(b"\x01")  # beside others
        width, height, _, name = struct.unpack(">HH16sI", await reader.readexactly(24))
        await reader.readexactly(name)
        blue_green_red = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
        writer.write(b"\0\0\0\0" + blue_green_red)
        writer.write(struct.pack(">BxHi", 2, 1, _RAW))
        return cls(reader, writer, width, height)

    async def picture(self, *, changed: bool = False) -> Picture:
        """The whole screen as it is; with `changed`, as it is after the next change."""
        whole = (3, changed, 0, 0, self.width, self.height)
        if self._writer.is_closing():
            raise _unusable("it closed the connection")
        try:
            self._writer.write(struct.pack(">BBHHHH", *whole))
            while not await self._message():
                pass
        except (asyncio.IncompleteReadError, OSError) as error:
            raise _unusable("it closed the connection") from error
        return Picture(width=self.width, height=self.height, pixels=bytes(self._pixels))

    async def drawn(self) -> Picture:
        """The first picture on which something is drawn."""
        picture = await self.picture()
        while picture.is_uniform:
            picture = await self.picture(changed=True)
        return picture

    async def _message(self) -> bool:
        """Takes one message; whether it was an update of the picture."""
        read = self._reader.readexactly
        kind = (await read(1))[0]
        if kind == _UPDATE:
            for _ in range(struct.unpack(">xH", await read(3))[0]):
                await self._rectangle()
        elif kind == _COLOURS:
            await read(6 * struct.unpack(">xHH", await read(5))[1])
        elif kind == _CUT_TEXT:
            self.cut_text = await read(struct.unpack(">xxxI", await read(7))[0])
        elif kind != _BELL:
            raise _unusable(f"it sent a message of kind {kind}")
        return kind == _UPDATE

    async def _rectangle(self) -> None:
        x, y, width, height, encoding = struct.unpack(">HHHHi", await self._reader.readexactly(12))
        if encoding != _RAW or x + width > self.width or y + height > self.height:
            raise _unusable("it sent a picture that was not asked for")
        data = await self._reader.readexactly(width * height * 4)
        for line in range(height):
            at = ((y + line) * self.width + x) * 4
            self._pixels[at : at + width * 4] = data[line * width * 4 : (line + 1) * width * 4]


def _unusable(why: str) -> SandboxUnavailable:
    return SandboxUnavailable(
        f"The desktop's screen cannot be used: {why}.",
        remedy="Run `polydev doctor --fix --desktop`; it says what a desktop needs.",
        reason="desktop_screen",
    )
