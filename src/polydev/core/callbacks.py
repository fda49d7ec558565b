"""The provider's redirect, carried to the CLI that waits for it on the loopback of its sandbox.

It comes from the person's own browser: to a port that is offered on this machine for one login
alone, or as the pasted address of a page that could not be reached. Of either only `code` and
`state` are taken, only with the state that this login expects, only for the path that its CLI
named, and once. The CLI's own answer goes back to a browser that waits for it.
"""

import asyncio
import hmac
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit

import h11

from polydev.errors import Conflict, InvalidRequest, LoginFailed, PolydevError
from polydev.models.logins import LoginTrouble
from polydev.providers.login import LOOPBACK_NAMES, Callback

_HEAD_BYTES = 16 * 1024
_ANSWER_BYTES = 256 * 1024
_SECONDS = 30.0  # the CLI exchanges the code before it answers
_MOST_ADDRESS_CHARACTERS = 8192
_SHOWN = frozenset({b"content-type", b"location"})

Connect = Callable[[int], Awaitable[socket.socket]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the CLI answered to the browser."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class Relay:
    """The way to one CLI's callback. connect: opens a connection to a port of its loopback."""

    def __init__(self, callback: Callback, connect: Connect) -> None:
        self.callback = callback
        self._connect = connect
        self._taken = False

    async def pasted(self, address: str) -> None:
        """Takes the address of the page that could not be reached.

        Raises InvalidRequest (`wrong_address`, `wrong_state`, `denied`), Conflict when one was
        taken already, LoginFailed when the CLI does not answer.
        """
        try:
            url = urlsplit(address.strip()[:_MOST_ADDRESS_CHARACTERS])
            port = url.port
        except ValueError:
            url, port = urlsplit(""), None
        here = (port, url.path) == (self.callback.port, self.callback.path)
        if url.scheme != "http" or url.hostname not in LOOPBACK_NAMES or not here:
            raise InvalidRequest(
                "This is not the address of the page that could not be reached.",
                remedy=f"It begins with http://localhost:{self.callback.port}"
                f"{self.callback.path}? – copy all of it from the browser's address bar.",
                reason="wrong_address",
            )
        await self._ask(self._target(url.query))

    async def browser(self, path: str, query: str) -> Answer:
        """What the CLI answers to a browser on this machine. Raises as `pasted` does."""
        if path == self.callback.path:
            return await self._ask(self._target(query))
        if path in self.callback.after and self._taken:
            return await self._ask(f"{path}?{query}" if query else path)
        raise InvalidRequest("There is nothing at this address.", reason="wrong_address")

    def _target(self, query: str) -> str:
        """The request to the CLI: `code` and `state`, and nothing else."""
        fields = {name: values[0] for name, values in parse_qs(query).items()}
        state = fields.get("state", "")
        if not hmac.compare_digest(state.encode(errors="replace"), self.callback.state.encode()):
            raise InvalidRequest(
                "This address belongs to another login.",
                remedy="Use the link that is shown for this one, in one browser window.",
                reason="wrong_state",
            )
        if "error" in fields:
            raise InvalidRequest(
                "The access was denied on the provider's page.",
                remedy="Open the link again and allow it, or cancel the login.",
                reason="denied",
            )
        if not fields.get("code"):
            raise InvalidRequest(
                "This address holds no code.",
                remedy="Copy all of it from the browser's address bar.",
                reason="wrong_address",
            )
        if self._taken:
            raise Conflict("This address was used already.", remedy="Wait, or start again.")
        self._taken = True
        return f"{self.callback.path}?{urlencode({'code': fields['code'], 'state': state})}"

    async def _ask(self, target: str) -> Answer:
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._exchange(target)
        except (OSError, TimeoutError, h11.RemoteProtocolError, PolydevError) as error:
            raise LoginFailed(
                "The login's command did not take the provider's answer.",
                remedy="Try again, or try another method.",
                reason=LoginTrouble.CLI_ENDED,
            ) from error

    async def _exchange(self, target: str) -> Answer:
        try:
            connection = await self._connect(self.callback.port)
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            self._taken = False  # the CLI has not had it: it may be tried again
            raise
        try:
            client = h11.Connection(h11.CLIENT)
            host = f"localhost:{self.callback.port}"
            request = h11.Request(
                method="GET", target=target, headers=[("host", host), ("connection", "close")]
            )
            writer.write((client.send(request) or b"") + (client.send(h11.EndOfMessage()) or b""))
            head: h11.Response | None = None
            body = bytearray()
            while True:
                event = client.next_event()
                if event is h11.NEED_DATA:
                    client.receive_data(await reader.read(_HEAD_BYTES))
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > _ANSWER_BYTES:
                        raise h11.RemoteProtocolError("the answer is too large")
                elif isinstance(event, h11.EndOfMessage) and head is not None:
                    shown = tuple(item for item in head.headers if item[0] in _SHOWN)
                    return Answer(status=head.status_code, headers=shown, body=bytes(body))
                elif isinstance(event, h11.ConnectionClosed):
                    raise h11.RemoteProtocolError("the connection was closed")
        finally:
            writer.close()


class OfferedPort:
    """The callback's port on this machine's loopback, for one login. Use as a context manager."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Raises LoginFailed (`port_taken`)."""
        port = self._relay.callback.port
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        except OSError as error:
            raise LoginFailed(
                f"Port {port} of this machine, where the browser is led after the login, is in use.",
                remedy="End what uses it (another login of the same CLI?), or choose another method.",
                reason=LoginTrouble.PORT_TAKEN,
            ) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        try:
            async with asyncio.timeout(2 * _SECONDS):
                while (event := server.next_event()) is h11.NEED_DATA:
                    server.receive_data(await reader.read(_HEAD_BYTES))
                if isinstance(event, h11.Request):
                    answer = await self._answer(event)
                    writer.write(_encoded(server, answer))
                    await writer.drain()
        except (OSError, TimeoutError, ValueError, h11.ProtocolError):
            return  # a browser that left, or something that is none
        finally:
            writer.close()

    async def _answer(self, request: h11.Request) -> Answer:
        url = urlsplit(request.target.decode("latin-1"))
        named = dict(request.headers).get(b"host", b"").decode("latin-1").rpartition(":")[0]
        if request.method != b"GET" or named not in LOOPBACK_NAMES:
            return _page(403, "This address takes the end of a login and nothing else.")
        try:
            return await self._relay.browser(url.path, url.query)
        except PolydevError as error:
            return _page(404 if error.reason == "wrong_address" else error.status, str(error))


def _page(status: int, words: str) -> Answer:
    # Only our own words; nothing of the request comes back.
    return Answer(
        status=status,
        headers=((b"content-type", b"text/plain; charset=utf-8"),),
        body=words.encode(),
    )


def _encoded(server: h11.Connection, answer: Answer) -> bytes:
    headers = [
        *answer.headers,
        (b"content-length", str(len(answer.body)).encode()),
        (b"cache-control", b"no-store"),
        (b"referrer-policy", b"no-referrer"),
        (b"connection", b"close"),
    ]
    response = h11.Response(status_code=answer.status, headers=headers)
    return (
        (server.send(response) or b"")
        + (server.send(h11.Data(data=answer.body)) or b"")
        + (server.send(h11.EndOfMessage()) or b"")
    )
