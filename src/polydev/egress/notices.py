"""What the egress process tells the gateway without being asked.

Nothing that carries a request ever waits for this. A notice goes out at once when the channel has
room, so the gateway has it before the sandbox has the answer; otherwise it queues. When the queue
is full the oldest goes and the loss is counted, except for word of sealed answers, which is kept.
After the gateway is gone, notices are dropped, and those that somebody must see go to stderr.
"""

import asyncio
import contextlib
import sys
from collections import deque

from polydev.egress.channel import Channel, ChannelClosed, Message
from polydev.models.egress import Exchange, exchange_to_dict
from polydev.secret import mask_tokens

_MOST_WAITING = 1024
_PATH_CHARACTERS = 512


class Notices:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: deque[Message] = deque()
        self._sealed: deque[Message] = deque()
        self._lost = 0
        self._wake = asyncio.Event()

    def exchange(self, exchange: Exchange) -> None:
        self._post({"exchange": exchange_to_dict(exchange)})

    def log(self, event: str, *, level: str = "warning", **fields: str | int) -> None:
        """A line for the gateway's log. Fields hold no secret and no prompt."""
        self._post({"log": event, "level": level, "fields": fields})

    def alarm(self, event: str, **fields: str | int) -> None:
        """A line that must be seen even when no gateway listens any more."""
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        with contextlib.suppress(OSError):  # the terminal may be gone with the gateway
            print(f"polydev egress: {event} {words}", file=sys.stderr, flush=True)  # noqa: T201
        self.log(event, level="error", **fields)

    def sealed(self, binding_id: str, unwritten: str = "") -> None:
        """A sealed answer is in the spool, or, where the disk took none, here in `unwritten`."""
        message: Message = {"sealed": binding_id, "unwritten": unwritten}
        try:
            if not self._sealed and self._channel.try_send(message):
                return
        except ChannelClosed:
            return
        self._sealed.append(message)
        self._wake.set()

    async def deliver(self) -> None:
        """Sends what queued, until the channel closes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._sealed or self._waiting:
                    queue = self._sealed or self._waiting
                    message = queue.popleft()
                    if self._lost:
                        message["lost"], self._lost = self._lost, 0
                    await self._channel.send(message)
            except ChannelClosed:
                return

    def _post(self, message: Message) -> None:
        try:
            if not self._waiting and self._channel.try_send(message):
                return
        except ChannelClosed:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(message)
        self._wake.set()


def presentable(path: str) -> str:
    """A path for records and logs: short, and without what looks like a token."""
    return mask_tokens(path)[:_PATH_CHARACTERS]
