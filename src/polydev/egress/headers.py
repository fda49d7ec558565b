"""What becomes of headers on their way through. Pure.

Names keep the spelling in which they came; values pass as bytes. Framing (`content-length`,
`transfer-encoding`) is kept, for it describes a body that passes as it is.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from polydev.egress.refusal import Refused
from polydev.models.egress import EgressMode, EgressPolicy
from polydev.secret import Secret

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings", b"expect"}
)
# Cookies are dropped without a word: a CLI may have been given one by the provider itself.
_CREDENTIALS = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"x-goog-api-key",
        b"api-key",
        b"x-auth-token",
        b"x-access-token",
        b"x-goog-iam-authorization-token",
        b"proxy-authorization",
    }
)
_COOKIES = frozenset({b"cookie", b"cookie2"})
_ORIGINS = frozenset({b"forwarded", b"via", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip"})
_OTHER_METHOD = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})

_FIELD = re.compile(r"\{([a-z0-9_]+)\}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_MOST_OBSERVED = 64
_OBSERVED_CHARACTERS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """The access token in use of one connection, and what is set beside it.

    Raises ValueError, without showing it, for a value that no header can carry.
    """

    access_token: Secret[str]
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for value in (self.access_token.reveal(), *self.attributes.values()):
            if value and not _HEADER_VALUE.fullmatch(value):
                raise ValueError("the credential holds characters that no header can carry")

    def value(self, template: str) -> bytes | None:
        """`template` filled in; None when the credential lacks a field of it."""
        fields = {**self.attributes, "access_token": self.access_token.reveal()}
        if any(not fields.get(name) for name in _FIELD.findall(template)):
            return None
        return _FIELD.sub(lambda match: fields[match[1]], template).encode("ascii")


def check_request(headers: Headers) -> None:
    """Refuses what would make a provider read another request than the one that was judged."""
    names = [name.lower() for name, _ in headers]
    if not _OTHER_METHOD.isdisjoint(names):
        raise Refused("a header asks for another method than the request's")
    if b"content-length" in names and b"transfer-encoding" in names:
        raise Refused("the body has two framings", status=400)


def injected(
    headers: Headers,
    *,
    host: str,
    policy: EgressPolicy,
    sentinel: Secret[str] | None,
    token: Token | None,
) -> Headers:
    """Headers for upstream in `inject` mode: the sandbox's credentials out, the token in.

    Only a request that shows the sentinel, and no other credential, is given the token.
    """
    if sentinel is not None:
        _check_credentials(headers, sentinel)
    if token is None:
        raise Refused("this connection has no access token at the moment", status=503)
    removed = {name.lower().encode() for name in policy.removed}
    removed |= {added.name.lower().encode() for added in policy.added}
    removed |= _CREDENTIALS | _COOKIES | _ORIGINS
    kept = [
        (name, value)
        for name, value in _end_to_end(headers)
        if name.lower() not in removed and not name.lower().startswith(b"x-forwarded-")
    ]
    values = [(added.name.encode(), token.value(added.value)) for added in policy.added]
    return [
        (b"Host", host.encode()),
        *kept,
        *((name, value) for name, value in values if value is not None),
    ]


def witnessed(headers: Headers, *, host: str) -> Headers:
    """Headers for upstream in `witness` mode: as the CLI sent them."""
    return [(b"Host", host.encode()), *_end_to_end(headers)]


def answered(headers: Headers, *, mode: EgressMode) -> Headers:
    """Headers of an answer for the sandbox."""
    dropped = {b"alt-svc"}
    if mode is EgressMode.INJECT:
        dropped |= {b"set-cookie", b"set-cookie2"}
    return [(name, value) for name, value in _end_to_end(headers) if name.lower() not in dropped]


def replaced(headers: Headers, name: bytes, value: bytes) -> Headers:
    """`headers` with exactly one `name`."""
    return [*without(headers, name), (name, value)]


def without(headers: Headers, *names: bytes) -> Headers:
    return [item for item in headers if item[0].lower() not in names]


def value_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for key, value in headers if key.lower() == name), b"")


def wants_websocket(headers: Headers) -> bool:
    return value_of(headers, b"upgrade").strip().lower() == b"websocket" and b"upgrade" in (
        _nominated(headers)
    )


def observed(
    headers: Iterable[tuple[bytes, bytes]], prefixes: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """The headers that the gateway wants to see, and `retry-after`."""
    wanted = (*(prefix.lower().encode() for prefix in prefixes), b"retry-after")
    seen = [
        (name.lower().decode("ascii"), value.decode("latin-1")[:_OBSERVED_CHARACTERS])
        for name, value in headers
        if name.lower().startswith(wanted)
    ]
    return tuple(seen[:_MOST_OBSERVED])


def _end_to_end(headers: Headers) -> Headers:
    """`headers` less those that concern one connection only, and less `host`."""
    dropped = (_HOP_BY_HOP | (_nominated(headers) - _FRAMING)) | {b"host"}
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith(b"proxy-")
    ]


def _nominated(headers: Headers) -> set[bytes]:
    return {
        name.strip().lower()
        for key, value in headers
        if key.lower() == b"connection"
        for name in value.split(b",")
    }


def _check_credentials(headers: Headers, sentinel: Secret[str]) -> None:
    shown = False
    for name, value in headers:
        if name.lower() not in _CREDENTIALS:
            continue
        scheme, _, rest = value.strip().partition(b" ")
        bare = rest.strip() if scheme.lower() == b"bearer" else value.strip()
        if not bare:
            continue
        if not hmac.compare_digest(bare, sentinel.reveal().encode()):
            raise Refused(f"foreign credential in {name.lower().decode('ascii')}")
        shown = True
    if not shown:
        raise Refused("no credential")
