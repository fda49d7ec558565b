"""Opens connections to providers: directly, or through the connection's outbound proxy.

Directly it resolves the name itself and dials only what it checked: an address that is not public
(private, loopback, link-local, metadata, multicast, or one of these inside an IPv6 form that
carries IPv4) raises Refused, even when the name has public ones beside it. Through a proxy the
name is the proxy's to resolve, and only what is plainly not a public name is refused; the proxy
itself may be anywhere, for the owner chose it. With `redirect` every name means that one host and
port, asked of the proxy where there is one. TLS is verified as the provider in every case.

No connection, no trusted certificate, or too slow raises Unreachable; ProxyFailed when a proxy was
in between. Nothing is tried without the proxy then.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable
from pathlib import Path

from polydev.egress.addresses import is_public
from polydev.egress.proxies import open_tunnel
from polydev.egress.refusal import ProxyFailed, Refused, Unreachable
from polydev.egress.stream import Stream, StreamClosed
from polydev.models.proxies import Proxy, ProxyKind

_RESOLVE_SECONDS = 10
_CONNECT_SECONDS = 15
# A proxy resolves and connects in its turn. With the above less than a refresh waits for an answer.
_PROXY_SECONDS = 25
_MOST_ADDRESSES = 4
_PORT = 443


class Dialer:
    """`upstream_ca` is trusted in place of the system's authorities when it is given.

    Raises OSError or ssl.SSLError for an `upstream_ca` that cannot be read.
    """

    def __init__(self, *, redirect: str = "", upstream_ca: Path | None = None) -> None:
        self._redirect: tuple[str, int] | None = None
        if redirect:
            host, _, port = redirect.rpartition(":")
            self._redirect = (host.strip("[]"), int(port))
        self._context = ssl.create_default_context(cafile=upstream_ca)
        self._context.set_alpn_protocols(["http/1.1"])

    async def dial(self, host: str, proxy: Proxy | None, *, tls: bool = True) -> Stream:
        """A connection to `host`; without `tls` it carries the sandbox's own."""
        if proxy is not None:
            return await self._dial_through(proxy, host, tls=tls)
        problem = Unreachable(f"{host} has no address")
        for address, port in await self._addresses(host):
            try:
                return await self._connect(address, port, host if tls else None)
            except ssl.SSLCertVerificationError as error:
                raise Unreachable(
                    f"the certificate shown for {host} is not trusted: {error.verify_message}"
                ) from error
            except TimeoutError:
                problem = Unreachable(f"{host} did not accept a connection in time", status=504)
            except ssl.SSLError as error:
                problem = Unreachable(f"TLS with {host} failed: {error.reason}")
            except OSError as error:
                problem = Unreachable(f"{host} cannot be reached: {error.strerror or error}")
        raise problem

    async def _dial_through(self, proxy: Proxy, host: str, *, tls: bool) -> Stream:
        if not self._redirect:
            check_name(host)
        target, port = self._redirect or (host, _PORT)
        stream = await self._reach(proxy)
        try:
            try:
                async with asyncio.timeout(_PROXY_SECONDS):
                    await open_tunnel(stream, proxy, target, port)
            except TimeoutError as error:
                raise ProxyFailed(
                    f"the outbound proxy did not connect to {host} in time", status=504
                ) from error
            if not tls:
                return stream
            return await _named(
                stream.start_tls_to(self._context, host), f"{host} through the outbound proxy"
            )
        except BaseException:
            stream.abort()
            raise

    async def _reach(self, proxy: Proxy) -> Stream:
        host = proxy.host.strip("[]")
        verified_as = host if proxy.kind is ProxyKind.HTTPS else None
        return await _named(self._connect(host, proxy.port, verified_as), "the outbound proxy")

    async def _connect(self, address: str, port: int, verified_as: str | None) -> Stream:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, stream = await loop.create_connection(
                Stream,
                address,
                port,
                ssl=self._context if verified_as else None,
                server_hostname=verified_as,
            )
        return stream

    async def _addresses(self, host: str) -> list[tuple[str, int]]:
        if self._redirect:
            return [self._redirect]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                found = await loop.getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise Unreachable(f"{host} was not resolved in time", status=504) from error
        except OSError as error:
            raise Unreachable(f"{host} cannot be resolved: {error.strerror or error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not all(is_public(address) for address in addresses):
            raise Refused(f"{host} resolves to an address that is not public")
        return [(address, _PORT) for address in addresses[:_MOST_ADDRESSES]]


async def _named(connecting: Awaitable[Stream], what: str) -> Stream:
    """What `connecting` gives; what goes wrong, in words about `what`."""
    try:
        return await connecting
    except ssl.SSLCertVerificationError as error:
        raise ProxyFailed(
            f"the certificate shown for {what} is not trusted: {error.verify_message}"
        ) from error
    except TimeoutError as error:
        raise ProxyFailed(f"{what} did not accept a connection in time", status=504) from error
    except ssl.SSLError as error:
        raise ProxyFailed(f"TLS with {what} failed: {error.reason}") from error
    except StreamClosed as error:
        raise ProxyFailed(f"TLS with {what} failed: the connection was closed") from error
    except OSError as error:
        raise ProxyFailed(f"{what} cannot be reached: {error.strerror or error}") from error


def check_name(host: str) -> None:
    """Raises Refused for what a resolver elsewhere would not take for a public host's name.

    An address is taken only in its plain form: resolvers also read `127.1` and `0x7f000001`.
    """
    last = host.rstrip(".").rpartition(".")[2]
    is_address = ":" in host or last.isdigit() or last.startswith("0x")
    if (is_address and not is_public(host)) or last in ("localhost", ""):
        raise Refused(f"{host} is an address that is not public")
