"""The egress process: does what the gateway asks over the channel, until the channel closes.

The first message says how it is set up and is answered by `ready`, or by `failed` and why. Each
later one carries an `id` and is answered by `re` and either nothing or `error`. When the gateway
is gone, however it went, listeners and connections close, sealed requests under way are finished
for a bounded time, and the process ends.
"""

import asyncio
import base64
import re
import socket
import ssl
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from polydev.authority import Authority
from polydev.egress.bound import Bound, Services
from polydev.egress.channel import SETTLE_SECONDS, Channel, ChannelClosed, Message
from polydev.egress.dial import Dialer
from polydev.egress.headers import Token
from polydev.egress.hold import hold
from polydev.egress.notices import Notices
from polydev.egress.policy import Judge
from polydev.egress.serve import serve
from polydev.egress.stream import Stream
from polydev.models.egress import policy_from_dict
from polydev.models.proxies import Proxy, ProxyRange
from polydev.secret import Secret


async def run_process(end: socket.socket) -> None:
    channel = Channel(end)
    received = await channel.receive()
    if received is None:
        return
    try:
        hold(Path(received[0]["spool"]))  # as long as this process lives
        services = _set_up(channel, received[0])
    except (OSError, ssl.SSLError, ValueError) as error:
        await channel.send({"failed": str(error)})
        return
    await channel.send({"ready": True})
    await _Process(channel, services).run()


def _set_up(channel: Channel, message: Message) -> Services:
    upstream_ca = Path(message["upstream_ca"]) if message["upstream_ca"] else None
    try:
        dialer = Dialer(redirect=message["redirect"], upstream_ca=upstream_ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"egress.upstream_ca {upstream_ca} cannot be used: {error}") from error
    return Services(
        authority=Authority.load_or_create(Path(message["authority"]), "polydev egress"),
        dialer=dialer,
        notices=Notices(channel),
        spool=Path(message["spool"]),
    )


class _Process:
    def __init__(self, channel: Channel, services: Services) -> None:
        self._channel = channel
        self._services = services
        self._bindings: dict[str, Bound] = {}
        self._closing: set[Bound] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self._spawn(self._services.notices.deliver())
        try:
            while (received := await self._channel.receive()) is not None:
                await self._handle(*received)
        except ChannelClosed:
            pass  # the same end, noticed while answering
        for bound in self._bindings.values():
            bound.close()
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                for bound in (*self._bindings.values(), *self._closing):
                    await bound.settle()
        except TimeoutError:
            self._services.notices.alarm("a sealed request was still under way at the end")
        self._services.pool.close()

    async def _handle(self, message: Message, descriptors: list[int]) -> None:
        try:
            match message["do"]:
                case "bind":
                    await self._bind(message, [socket.socket(fileno=fd) for fd in descriptors])
                case "unbind":
                    self._spawn(self._unbind(message))
                    return
                case "set_credential":
                    self._services.tokens[message["connection_id"]] = Token(
                        access_token=Secret(message["access_token"]),
                        attributes=message["attributes"],
                    )
                case "set_proxy":
                    self._set_proxy(message["connection_id"], _proxy(message["proxy"]))
                case "forget":
                    self._services.tokens.pop(message["connection_id"], None)
                    self._services.pool.forget(message["connection_id"])
                case unknown:
                    raise ValueError(f"unknown request {unknown!r}")
        except (OSError, ValueError, KeyError, re.error) as error:
            # A validation error quotes its input; what it concerns is enough.
            wrong = "the policy is invalid" if isinstance(error, ValidationError) else str(error)
            await self._channel.send({"re": message["id"], "error": wrong})
        else:
            await self._channel.send({"re": message["id"]})

    async def _bind(self, message: Message, listeners: list[socket.socket]) -> None:
        bound = None
        try:
            key = message["seal_key"]
            bound = Bound(
                id=message["binding"],
                connection_id=message["connection_id"],
                judge=Judge(policy_from_dict(message["policy"])),
                sentinel=None if message["sentinel"] is None else Secret(message["sentinel"]),
                seal_key=None if key is None else Secret(base64.b64decode(key)),
                proxy=_proxy(message["proxy"]),
            )
            while listeners:
                bound.servers.append(await self._listen(bound, listeners[-1]))
                listeners.pop()
        except BaseException:
            if bound:
                bound.close()
            for listener in listeners:
                listener.close()
            raise
        self._bindings[bound.id] = bound

    def _set_proxy(self, connection_id: str, proxy: Proxy | None) -> None:
        for bound in self._bindings.values():
            if bound.connection_id == connection_id:
                bound.proxy = proxy
        self._services.pool.forget(connection_id)

    async def _listen(self, bound: Bound, listener: socket.socket) -> asyncio.Server:
        def accepted(stream: Stream) -> None:
            self._spawn(serve(self._services, bound, stream))

        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            return await loop.create_unix_server(lambda: Stream(accepted), sock=listener)
        return await loop.create_server(lambda: Stream(accepted), sock=listener)

    async def _unbind(self, message: Message) -> None:
        bound = self._bindings.pop(message["binding"], None)
        if bound:
            bound.close()
            self._closing.add(bound)
            try:
                async with asyncio.timeout(SETTLE_SECONDS):
                    await bound.settle()
            except TimeoutError:
                self._services.notices.alarm("a sealed request outlived its binding")
            finally:
                self._closing.discard(bound)
        try:
            await self._channel.send({"re": message["id"]})
        except ChannelClosed:
            return

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _proxy(address: str | None) -> Proxy | None:
    """Raises ValueError, for None alone means no proxy."""
    if address is None:
        return None
    found = ProxyRange.parse(address)
    return found.at(found.ports[0])
