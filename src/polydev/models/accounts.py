"""People, their keys, their connections and the credentials behind them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from polydev.secret import Secret


class UserState(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    id: str
    name: str
    state: UserState
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """What is kept of an API key: never the key itself.

    prefix: the first characters, for a person to tell keys apart.
    requests_per_minute, concurrent_runs: this key's limits.
    """

    id: str
    user_id: str
    name: str
    prefix: str
    requests_per_minute: int
    concurrent_runs: int
    created_at: datetime
    revoked_at: datetime | None = None


class ConnectionState(StrEnum):
    PROVING = "proving"  # its credential has not yet answered a live call
    ACTIVE = "active"
    NEEDS_LOGIN = "needs_login"
    DISCONNECTED = "disconnected"


CONNECTION_TRANSITIONS: Mapping[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.PROVING: frozenset(
        {ConnectionState.ACTIVE, ConnectionState.NEEDS_LOGIN, ConnectionState.DISCONNECTED}
    ),
    ConnectionState.ACTIVE: frozenset({ConnectionState.NEEDS_LOGIN, ConnectionState.DISCONNECTED}),
    ConnectionState.NEEDS_LOGIN: frozenset({ConnectionState.ACTIVE, ConnectionState.DISCONNECTED}),
    ConnectionState.DISCONNECTED: frozenset(),
}


class Ownership(StrEnum):
    """Who refreshes a connection's credential."""

    FOLLOW = "follow"  # the person's own CLI does; polydev rereads its file
    TAKE = "take"  # polydev does, and nobody else may


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """One person's link to one subscription.

    reason: why it is not active, for a person.
    source: the file that a followed credential is reread from.
    credential_version: counts the credentials it has had; write-back compares and swaps on it.
    proxy: the outbound proxy that it leaves by, without user and password; None for directly, or
        until a port of the setting for all is chosen for it.
    identity: a random UUID from which whatever a provider wants stable per device is derived.
    """

    id: str
    user_id: str
    provider: str
    state: ConnectionState
    ownership: Ownership
    identity: str
    created_at: datetime
    reason: str = ""
    account: str = ""
    plan: str = ""
    source: str | None = None
    proxy: str | None = None
    credential_version: int = 0
    expires_at: datetime | None = None
    checked_at: datetime | None = None
    refreshed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Credential:
    """A credential, opened: the CLI's own files and what its provider read in them.

    files: path under HOME → what the CLI wrote there, reduced to what is needed.
    access_token: what egress adds to requests.
    refresh_token: None for credentials that cannot be refreshed (an API key).
    expires_at: None when the access token does not expire.
    kind: the provider's word for the sort of login (`oauth`, `api_key`); chooses how it is used.
    attributes: what else egress sets beside the token, by name (an account id).
    account, plan: for a person to recognise it by; may be empty.
    """

    files: Mapping[str, Secret[bytes]]
    access_token: Secret[str]
    refresh_token: Secret[str] | None = None
    expires_at: datetime | None = None
    kind: str = "oauth"
    attributes: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    plan: str = ""
