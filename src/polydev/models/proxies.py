"""Addresses of outbound proxies: `http://`, `https://` and `socks5://`, one port or a range.

`user:password@` may stand before the host, percent-encoded where it must be. Both are secret: what
is shown of an address, in logs, errors and answers, is without them. With every kind it is the
proxy that resolves the name it is asked for.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self
from urllib.parse import quote, unquote

from polydev.secret import Secret

# Both methods of signing in at a proxy bound them: RFC 1929, and the heads that servers take.
_MOST_LOGIN_BYTES = 255
_MOST_CHARACTERS = 2048
_ADDRESS = re.compile(
    r"""
    (?P<kind>[a-z0-9]+)://
    (?:(?P<login>.*)@)?
    (?P<host>\[[0-9a-f:.]+\] | [a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?)
    :(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?
    /?
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII | re.DOTALL,
)


class ProxyKind(StrEnum):
    HTTP = "http"  # CONNECT in the clear; TLS to the provider goes through it all the same
    HTTPS = "https"  # CONNECT within TLS with the proxy
    SOCKS5 = "socks5"


# What others call SOCKS5 whose proxy resolves names, which is the only way here.
_ALIASES = {"socks5h": ProxyKind.SOCKS5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """The one address that something leaves by. user and password are empty without a login."""

    kind: ProxyKind
    host: str
    port: int
    user: Secret[str]
    password: Secret[str]

    def shown(self) -> str:
        """The address without user and password."""
        return f"{self.kind}://{self.host}:{self.port}"

    def reveal(self) -> str:
        """The whole address, as `ProxyRange.parse` reads it."""
        return _whole(self.kind, self.user, self.password, f"{self.host}:{self.port}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyRange:
    """An address as it is configured: a range of ports, of which a connection gets one.

    A range of one port is shared by all who are given it.
    """

    kind: ProxyKind
    host: str
    ports: range
    user: Secret[str]
    password: Secret[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, whose words repeat nothing of `text`."""
        found = _ADDRESS.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
        if found is None:
            raise ValueError(
                "a proxy's address is http://, https:// or socks5://, then user:password@ if it "
                "wants them, then HOST:PORT or HOST:FIRST-LAST"
            )
        name = found["kind"].lower()
        if name not in (*ProxyKind, *_ALIASES):
            raise ValueError("a proxy is http, https or socks5")
        first = int(found["first"])
        last = int(found["last"] or first)
        if not 0 < first <= last < 65536:
            raise ValueError(
                "a proxy's port is between 1 and 65535, a range's first before its last"
            )
        user, _, password = (unquote(part) for part in (found["login"] or "").partition(":"))
        _check_login(user, password)
        return cls(
            kind=_ALIASES.get(name) or ProxyKind(name),
            host=found["host"].lower(),
            ports=range(first, last + 1),
            user=Secret(user),
            password=Secret(password),
        )

    def at(self, port: int) -> Proxy:
        return Proxy(
            kind=self.kind, host=self.host, port=port, user=self.user, password=self.password
        )

    def shown(self) -> str:
        """The address without user and password."""
        return f"{self.kind}://{self.host}:{self._ports_text()}"

    def reveal(self) -> str:
        return _whole(self.kind, self.user, self.password, f"{self.host}:{self._ports_text()}")

    def _ports_text(self) -> str:
        first, last = self.ports[0], self.ports[-1]
        return str(first) if first == last else f"{first}-{last}"


def _check_login(user: str, password: str) -> None:
    if password and not user:
        raise ValueError("a proxy's password goes with a user")
    if ":" in user:
        raise ValueError("a proxy's user has no colon: proxies read what follows as the password")
    for part in (user, password):
        try:
            size = len(part.encode())
        except UnicodeEncodeError as error:
            raise ValueError("a proxy's user and password are text") from error
        if size > _MOST_LOGIN_BYTES:
            raise ValueError(f"a proxy's user and password have at most {_MOST_LOGIN_BYTES} bytes")
        if not part.isprintable():
            raise ValueError("a proxy's user and password have no control characters")


def _whole(kind: ProxyKind, user: Secret[str], password: Secret[str], place: str) -> str:
    login = quote(user.reveal(), safe="")
    if password:
        login += f":{quote(password.reveal(), safe='')}"
    return f"{kind}://{login}@{place}" if login else f"{kind}://{place}"
