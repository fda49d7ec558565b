"""Messages between the gateway and the egress process: one JSON object per SEQPACKET packet.

File descriptors travel beside a message. A packet has a fixed largest size; one that would be
larger is refused at the sender with ValueError, so the other side never sees a part. A channel
whose other end is gone answers `receive` with None and everything else with ChannelClosed. Waits
are not bounded here: each caller knows how long its own may take.
"""

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

PACKET_BYTES = 128 * 1024
# How long the process finishes sealed requests after it was told to stop.
SETTLE_SECONDS = 15.0
_MOST_DESCRIPTORS = 16

Message = dict[str, Any]


class ChannelClosed(Exception):
    """The other end of the channel is gone."""


class Channel:
    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._sending = asyncio.Lock()
        self._closed = False

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        packet = _encode(message)
        async with self._sending:
            while not self._try(packet, descriptors):
                await self._writable()

    def try_send(self, message: Message) -> bool:
        """Sends without waiting; False when there is no room now."""
        return self._try(_encode(message), ())

    async def receive(self) -> tuple[Message, list[int]] | None:
        """The next message with its descriptors, which the caller then owns; None at the end."""
        while True:
            if self._closed:
                return None
            try:
                packet, descriptors, flags, _ = socket.recv_fds(
                    self._socket, PACKET_BYTES, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                await self._readable()
                continue
            except ConnectionError:
                return None
            if not packet:
                return None
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                for descriptor in descriptors:
                    os.close(descriptor)
                raise ValueError("a message on the egress channel was larger than agreed")
            message: Message = json.loads(packet)
            return message, list(descriptors)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _try(self, packet: bytes, descriptors: Sequence[int]) -> bool:
        if self._closed:
            raise ChannelClosed
        try:
            if descriptors:
                socket.send_fds(self._socket, [packet], descriptors)
            else:
                self._socket.send(packet)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionError as error:
            raise ChannelClosed from error
        return True

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        descriptor = self._socket.fileno()
        loop.add_reader(descriptor, _resolve, ready)
        try:
            await ready
        finally:
            if not self._closed:
                loop.remove_reader(descriptor)

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        descriptor = self._socket.fileno()
        loop.add_writer(descriptor, _resolve, ready)
        try:
            await ready
        finally:
            if not self._closed:
                loop.remove_writer(descriptor)


def _encode(message: Message) -> bytes:
    packet = json.dumps(message, separators=(",", ":")).encode()
    if len(packet) > PACKET_BYTES:
        raise ValueError(f"a message of {len(packet)} bytes is too large for the egress channel")
    return packet


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
