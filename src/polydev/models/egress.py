"""What a sandbox may ask of the network, as data.

A provider lists it, the gateway binds it to a connection, the egress process enforces it. These
records cross a process boundary, so they are plain and have a JSON form.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter


class Purpose(StrEnum):
    RUN = "run"
    KEEPER = "keeper"
    LOGIN = "login"


class EgressMode(StrEnum):
    """How egress treats what a sandbox sends."""

    INJECT = "inject"  # TLS ends at egress (or is plain HTTP); credentials out, the token in
    TUNNEL = "tunnel"  # the CLI's own TLS through an allowlisted CONNECT; nothing is read
    WITNESS = "witness"  # TLS ends at egress; the CLI's own credential passes, answers are sealed


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One admitted request.

    method: upper case; host: lower case, without port.
    path: a regular expression that the whole path (without its query) must match. Paths with dot
        segments, empty segments, encoded separators or backslashes never reach a rule.
    sealed: the answer is kept by the gateway before the sandbox sees it (a token endpoint).
    websocket: admits the upgrade of a GET.
    once: admitted a single time per binding, for CLIs that ask again by themselves.
    """

    method: str
    host: str
    path: str
    sealed: bool = False
    websocket: bool = False
    once: bool = False


# Why a second request of a rule that admits one is refused.
ASKED_ALREADY = "this was asked already and is admitted once"


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedHeader:
    """A header that egress sets from the credential.

    value: a template with one field, `{access_token}` or the name of a credential attribute:
        `Bearer {access_token}`, `{account_id}`. A header whose attribute the credential lacks is
        left out.
    """

    name: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EgressPolicy:
    """Everything that egress needs to know of a provider for one purpose.

    plain_host: the provider host that plain HTTP on the sandbox's socket or loopback port means;
        empty when the CLI speaks only through CONNECT.
    removed: headers taken off in `inject` mode beside the ones that always go (authorization,
        x-api-key, x-goog-api-key, cookie, proxy-*): account and device ids.
    added: what is set in their place.
    on_failure: headers set on answers with a status of 400 and above: what keeps this CLI from
        asking a second time by itself. Values are literal.
    observed: prefixes, lower case, of answer headers that the gateway wants to see (windows).
    any_public_host: in `tunnel` mode only: CONNECT to any host whose addresses are all public. For
        a browser in which a person logs in: where a provider's pages lead, nobody can list.
    """

    mode: EgressMode
    rules: tuple[Rule, ...]
    plain_host: str = ""
    removed: tuple[str, ...] = ()
    added: tuple[AddedHeader, ...] = ()
    on_failure: tuple[AddedHeader, ...] = ()
    observed: tuple[str, ...] = ()
    any_public_host: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One request of a sandbox, after it ended or was refused: no body, no secret.

    status: what the sandbox was answered; 403 refused here, 502 and 504 upstream out of reach.
    refused: why egress did not pass it on; empty when it did.
    unreachable: why no answer came from upstream; empty when one did.
    proxy_failed: it was the connection's outbound proxy.
    headers: the answer's headers that the policy observes, lower-case names, and `retry-after`.
    """

    binding: str
    method: str
    host: str
    path: str
    status: int
    refused: str = ""
    unreachable: str = ""
    proxy_failed: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    first_byte_seconds: float | None = None

    @property
    def asked_again(self) -> bool:
        """The CLI repeated by itself what it may ask once."""
        return self.refused == ASKED_ALREADY


_policy: TypeAdapter[EgressPolicy] = TypeAdapter(EgressPolicy)
_exchange: TypeAdapter[Exchange] = TypeAdapter(Exchange)


def policy_to_dict(policy: EgressPolicy) -> dict[str, Any]:
    fields: dict[str, Any] = _policy.dump_python(policy, mode="json")
    return fields


def policy_from_dict(fields: dict[str, Any]) -> EgressPolicy:
    """Raises pydantic.ValidationError for fields that make no policy."""
    return _policy.validate_python(fields)


def exchange_to_dict(exchange: Exchange) -> dict[str, Any]:
    fields: dict[str, Any] = _exchange.dump_python(exchange, mode="json")
    return fields


def exchange_from_dict(fields: dict[str, Any]) -> Exchange:
    """Raises pydantic.ValidationError for fields that make no exchange."""
    return _exchange.validate_python(fields)
