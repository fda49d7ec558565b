"""Judges requests by an EgressPolicy. Pure.

Everything that is not plainly one of the admitted requests raises Refused. A path is looked at
as the bytes that will be sent, never decoded: what a provider's server might read in two ways is
refused before any rule sees it.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_plus

from polydev.egress.addresses import is_public
from polydev.egress.refusal import Refused
from polydev.models.egress import EgressMode, EgressPolicy, Rule

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_VISIBLE = re.compile(r"[\x21-\x7e]*")
# Encoded separators, dots, percent signs and control characters, and escapes that are none.
_AMBIGUOUS_ESCAPE = re.compile(r"%(?:2[ef5]|5c|[01][0-9a-f]|7f|(?![0-9a-f]{2}))", re.IGNORECASE)
# Names that only a local resolver knows; so are those without a dot.
_PRIVATE_DOMAINS = frozenset(
    {"arpa", "home", "internal", "lan", "local", "localdomain", "localhost"}
)
# Google's servers also take credentials, headers and another method from the query.
_CREDENTIAL_PARAMETERS = frozenset({"key", "access_token", "api_key", "apikey", "oauth_token"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a request line points. host is empty for the origin form."""

    host: str = ""
    path: str
    query: str = ""

    def line(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path


def split_target(target: str) -> Target:
    """Reads the origin form (`/path?query`) and the absolute form (`http://host/path?query`)."""
    if not _VISIBLE.fullmatch(target):
        raise Refused("the request target holds characters that no URL has")
    host = ""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() != "http":
            raise Refused("the request target is neither a path nor an http address")
        authority, slash, tail = rest.partition("/")
        if not slash:
            raise Refused("the request target has no path")
        host = authority.lower().removesuffix(":80")
        if not _HOST.fullmatch(host):
            raise Refused("the request target names no plain host")
        target = slash + tail
    path, _, query = target.partition("?")
    return Target(host=host, path=path, query=query)


def split_authority(target: str) -> tuple[str, int]:
    """Host and port of a CONNECT."""
    host, _, port = target.lower().rpartition(":")
    if not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise Refused("CONNECT names no plain host and port")
    return host, int(port)


class Judge:
    """One policy, ready to be asked.

    Raises re.error for a rule that is no pattern, ValueError for a policy that admits every host
    and yet would read, or add a token to, what is said to them.
    """

    def __init__(self, policy: EgressPolicy) -> None:
        if policy.any_public_host and (policy.mode is not EgressMode.TUNNEL or policy.added):
            raise ValueError("any public host may be admitted in tunnel mode only")
        self.policy = policy
        self._hosts = frozenset(rule.host for rule in policy.rules)
        self._rules = [(rule, re.compile(rule.path, re.ASCII)) for rule in policy.rules]

    def check_host(self, host: str) -> None:
        """Where any public host is admitted, what a name leads to is the dialer's to check."""
        if self.policy.any_public_host:
            if _is_private(host):
                raise Refused("this address is not public")
        elif host not in self._hosts:
            raise Refused("this host is not admitted here")

    def rule(self, *, method: str, host: str, path: str, websocket: bool = False) -> Rule:
        """The rule that admits this request."""
        _check_path(path)
        self.check_host(host)
        for rule, pattern in self._rules:
            if (rule.method, rule.host) != (method, host) or (websocket and not rule.websocket):
                continue
            if pattern.fullmatch(path):
                return rule
        raise Refused("this request is not admitted here")

    def check_query(self, query: str) -> None:
        """In `inject` mode, refuses what would act as a credential or change the request."""
        if self.policy.mode is not EgressMode.INJECT:
            return
        for pair in re.split("[&;]", query):
            name = unquote_plus(pair.partition("=")[0]).strip().lower()
            if name.lstrip("$") in _CREDENTIAL_PARAMETERS or name.startswith("$http"):
                raise Refused("the query holds a credential of its own")


def _is_private(host: str) -> bool:
    """Whether it says of itself that it is not public, so that a redirect changes nothing."""
    labels = host.rstrip(".").split(".")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):  # an address, in whatever notation
        return not is_public(host)
    return len(labels) == 1 or labels[-1] in _PRIVATE_DOMAINS


def _check_path(path: str) -> None:
    if not path.startswith("/"):
        raise Refused("the path does not begin with a slash")
    if not _VISIBLE.fullmatch(path) or any(mark in path for mark in "\\?#"):
        raise Refused("the path holds characters that no path has")
    if _AMBIGUOUS_ESCAPE.search(path):
        raise Refused("the path holds an encoded separator, dot or control character")
    if "//" in path or any(part in (".", "..") for part in path.split("/")):
        raise Refused("the path holds a dot segment or an empty segment")
