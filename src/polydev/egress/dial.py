"""Opens connections to providers: resolves the name itself and dials only what it checked.

An address that is not public (private, loopback, link-local, metadata, multicast, or one of these
inside an IPv6 form that carries IPv4) raises Refused, even when the name has public ones beside
it. With `redirect` every name means that one host and port, still verified by TLS as the provider.
No connection, no trusted certificate, or too slow raises Unreachable.
"""

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path

from polydev.egress.refusal import Refused, Unreachable
from polydev.egress.stream import Stream

_RESOLVE_SECONDS = 10
_CONNECT_SECONDS = 15
_MOST_ADDRESSES = 4
_PORT = 443

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


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

    async def dial(self, host: str, *, tls: bool = True) -> Stream:
        """A connection to `host`; without `tls` it carries the sandbox's own."""
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


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, and to one host of it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None or ip.is_site_local:
            return False
        carried = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.teredo:
            return False
        if carried is not None:
            return is_public(str(carried))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
