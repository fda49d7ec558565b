"""Has an outbound proxy connect a stream to a provider: CONNECT, or SOCKS5 (RFC 1928, 1929).

The proxy gets the name as it is and resolves it: no look-up leaves this machine. Whatever it does
but connect raises ProxyFailed, which names what it did and never its address or login; nothing is
ever tried without it. The caller bounds the wait.
"""

import base64
import ipaddress
from typing import Protocol

import h11

from polydev.egress.refusal import ProxyFailed
from polydev.egress.stream import StreamClosed
from polydev.models.proxies import Proxy, ProxyKind

_HEAD_BYTES = 16 * 1024
_NO_LOGIN, _BY_PASSWORD, _NONE_OF_THESE = 0x00, 0x02, 0xFF
_CONNECT, _IPV4, _NAME, _IPV6 = 0x01, 0x01, 0x03, 0x04
# RFC 1928, section 6.
_REPLIES = {
    1: "failed",
    2: "does not allow it",
    3: "finds its network unreachable",
    4: "finds the host unreachable",
    5: "was refused the connection",
    6: "gave up on it",
    7: "knows no CONNECT",
    8: "does not take this kind of address",
}


class Wire(Protocol):
    """The connection to the proxy. Raises StreamClosed when it broke; b"" is its end."""

    async def read(self) -> bytes: ...

    def write(self, data: bytes) -> None: ...


async def open_tunnel(wire: Wire, proxy: Proxy, host: str, port: int) -> None:
    """From now on `wire` speaks with `host`. Raises ProxyFailed."""
    try:
        if proxy.kind is ProxyKind.SOCKS5:
            await _by_socks(_Exactly(wire), proxy, host, port)
        else:
            await _by_connect(wire, proxy, host, port)
    except StreamClosed as error:
        raise ProxyFailed("the outbound proxy broke the connection") from error


async def _by_connect(wire: Wire, proxy: Proxy, host: str, port: int) -> None:
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("Host", authority)]
    if proxy.user:
        login = f"{proxy.user.reveal()}:{proxy.password.reveal()}".encode()
        headers.append(("Proxy-Authorization", f"Basic {base64.b64encode(login).decode()}"))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    try:
        request = http.send(h11.Request(method="CONNECT", target=authority, headers=headers))
        wire.write((request or b"") + (http.send(h11.EndOfMessage()) or b""))
        while not isinstance(event := http.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                data = await wire.read()
                if not data:
                    raise _ended()
                http.receive_data(data)
    except h11.RemoteProtocolError as error:
        raise _nonsense() from error
    status = event.status_code
    if status == 407:
        raise _not_signed_in(proxy)
    if not 200 <= status < 300:
        raise ProxyFailed(f"the outbound proxy did not connect to the provider (status {status})")
    if http.trailing_data[0]:
        raise _nonsense()


async def _by_socks(wire: "_Exactly", proxy: Proxy, host: str, port: int) -> None:
    offered = bytes([_NO_LOGIN, _BY_PASSWORD] if proxy.user else [_NO_LOGIN])
    version, method = await wire.ask(bytes([5, len(offered)]) + offered, 2)
    if version != 5:
        raise _nonsense()
    if method == _NONE_OF_THESE:
        raise _not_signed_in(proxy)
    if method not in offered:
        raise _nonsense()
    if method == _BY_PASSWORD:
        login = b"".join(
            bytes([len(part)]) + part
            for part in (proxy.user.reveal().encode(), proxy.password.reveal().encode())
        )
        version, status = await wire.ask(b"\x01" + login, 2)
        if version != 1:
            raise _nonsense()
        if status != 0:
            raise _not_signed_in(proxy)
    asked = bytes([5, _CONNECT, 0]) + _socks_address(host) + port.to_bytes(2, "big")
    version, reply, _, kind = await wire.ask(asked, 4)
    if version != 5:
        raise _nonsense()
    if reply != 0:
        words = _REPLIES.get(reply, f"answered with code {reply}")
        raise ProxyFailed(f"the outbound proxy did not connect to the provider: it {words}")
    # The address that it connects from, and its port, say nothing that is needed here.
    match kind:
        case 1:
            await wire.ask(b"", 4 + 2)
        case 4:
            await wire.ask(b"", 16 + 2)
        case 3:
            [length] = await wire.ask(b"", 1)
            await wire.ask(b"", length + 2)
        case _:
            raise _nonsense()
    if wire.rest:
        raise _nonsense()


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


class _Exactly:
    """Reads so many bytes at a time; `rest` is what came beyond them."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.rest = b""

    async def ask(self, question: bytes, count: int) -> bytes:
        if question:
            self._wire.write(question)
        while len(self.rest) < count:
            data = await self._wire.read()
            if not data:
                raise _ended()
            self.rest += data
        answer, self.rest = self.rest[:count], self.rest[count:]
        return answer


def _not_signed_in(proxy: Proxy) -> ProxyFailed:
    if proxy.user:
        return ProxyFailed("the outbound proxy does not accept its user and password")
    return ProxyFailed("the outbound proxy wants a user and a password")


def _nonsense() -> ProxyFailed:
    return ProxyFailed("the outbound proxy did not answer as one: is its kind the right one?")


def _ended() -> ProxyFailed:
    return ProxyFailed("the outbound proxy closed the connection before it had connected")
