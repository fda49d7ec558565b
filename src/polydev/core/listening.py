"""Where the gateway may listen, and by which names it is reached.

On loopback plain HTTP is enough. Keys, cookies and prompts do not cross a network in plain sight,
so any other address takes a certificate, or the word that a proxy with one stands before it.
"""

import ipaddress
import ssl
from dataclasses import dataclass

from polydev.config import ServerSettings
from polydev.errors import SetupProblem

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """url: how a browser reaches the gateway; without a slash at its end.

    names: the host names that requests by cookie may be for; others are a stranger's page that
        has its name lead here.
    secure: whether browsers speak TLS to it, here or at the proxy before it.
    """

    url: str
    names: frozenset[str]
    secure: bool
    port: int


def reached_at(server: ServerSettings, host: str, port: int) -> Address:
    """host, port: where it listens, as the socket says."""
    secure = server.tls_certificate is not None or server.behind_tls_proxy
    named = [plain_name(name) for name in server.hosts]
    scheme = "https" if secure else "http"
    url = f"{scheme}://{_bracketed(named[0] if named else _reachable(host))}"
    if not (server.behind_tls_proxy and named):  # a proxy's port is TLS's own
        url += f":{port}"
    return Address(
        url=url,
        names=_LOOPBACK | {plain_name(host), plain_name(server.host), *named},
        secure=secure,
        port=port,
    )


def plain_name(host: str) -> str:
    """A host's name without its port, as names are compared."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name = host if host.count(":") > 1 else host.partition(":")[0]
    return name.rstrip(".").lower()


def check_listening(server: ServerSettings) -> None:
    """Raises SetupProblem for an address that is not safe to listen on as it is set up."""
    if (server.tls_certificate is None) != (server.tls_key is None):
        raise SetupProblem(
            "TLS needs both a certificate and its key, and one of them is not set.",
            remedy="Set POLYDEV_SERVER__TLS_CERTIFICATE and POLYDEV_SERVER__TLS_KEY, or neither.",
            reason="tls_incomplete",
        )
    if server.tls_certificate is not None and server.tls_key is not None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(server.tls_certificate, server.tls_key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise SetupProblem(
                f"The certificate {server.tls_certificate} and the key {server.tls_key} cannot be "
                f"used: {error}.",
                remedy="Both are PEM files, the key without a password, and belong together.",
                reason="tls_unusable",
            ) from error
    elif not (is_loopback(server.host) or server.behind_tls_proxy):
        raise SetupProblem(
            f"{server.host} is reached from elsewhere, and without TLS everybody on the way could "
            "read keys and prompts.",
            remedy="Set POLYDEV_SERVER__TLS_CERTIFICATE and POLYDEV_SERVER__TLS_KEY; or, with a "
            "proxy that speaks TLS before it, POLYDEV_SERVER__BEHIND_TLS_PROXY=true; or listen on "
            "127.0.0.1.",
            reason="tls_missing",
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(plain_name(host)).is_loopback
    except ValueError:
        return plain_name(host) == "localhost"


def _reachable(host: str) -> str:
    try:
        return "localhost" if ipaddress.ip_address(host).is_unspecified else host
    except ValueError:
        return host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
