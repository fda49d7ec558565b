"""What the simulator knows: accounts, their tokens, their windows, how they behave, what was asked.

One `World` is used from one event loop and holds no lock: nothing here waits. Unknown, expired
and revoked tokens raise TokenRejected; refused refreshes raise RefreshRejected; each carries a
word to branch on, and the provider modules turn it into the vendor's own answer. Token values
never appear in records: they are replaced by `account/kind#serial`.
"""

import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from starlette.routing import BaseRoute

from polydev.sim.codes import Codes
from polydev.sim.knobs import Knobs
from polydev.sim.records import Records

MOST_TOKENS_PER_ACCOUNT = 10_000

TokenKind = Literal["access", "refresh", "id", "api_key"]


@dataclass(kw_only=True, slots=True)
class Window:
    """A usage window: how long it is, how much of it is used, when it starts anew."""

    kind: str
    length_seconds: float
    used_fraction: float
    resets_at: datetime


@dataclass(kw_only=True, slots=True)
class Token:
    """One token that was given out. Tokens of one login are a family: they fall together."""

    account: str
    kind: TokenKind
    serial: int
    value: str
    family: int
    issued_at: datetime
    expires_at: datetime | None
    used_at: datetime | None = None
    revoked: bool = False

    @property
    def label(self) -> str:
        return f"{self.account}/{self.kind}#{self.serial}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Minting:
    """What a vendor is told when a token is to be made; `expires_at` None never expires."""

    account: "Account"
    kind: TokenKind
    serial: int
    issued_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPair:
    """What a login or a refresh gives: an access token and the token for the next refresh."""

    serial: int
    access: Token
    refresh: Token
    id_token: str = ""


@dataclass(kw_only=True, slots=True)
class Account:
    """A subscription at a provider. Its name is how tests and the control API speak of it."""

    name: str
    provider: str
    email: str
    id: str
    organization_id: str
    plan: str
    windows: dict[str, Window]
    overrides: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, int] = field(
        default_factory=lambda: {
            "logins": 0,
            "refreshes": 0,
            "refreshes_refused": 0,
            "prompts": 0,
            "rejected": 0,
            "abandoned": 0,
        }
    )
    api_key: Token | None = None
    fraction_before_limit: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Vendor:
    """What a provider module contributes (its `VENDOR`).

    hosts: the names it answers for.
    credential_path: where `Simulator` writes the first account's credential file.
    rotates_refresh_tokens: whether a refresh uses its refresh token up.
    plan: the plan of new accounts.
    windows: kind → length in seconds.
    mint: gives the value of a new token, in the vendor's shape; it must differ for each serial.
        Asked for the kind "id" too when mints_id_token.
    credential: the content of the credential file that the CLI itself would write.
    routes: what is answered on `hosts`.
    """

    provider: str
    hosts: tuple[str, ...]
    credential_path: str
    rotates_refresh_tokens: bool
    plan: str
    windows: Mapping[str, float]
    mint: Callable[[Minting], str]
    credential: Callable[[Account, TokenPair], str]
    routes: "Callable[[World], list[BaseRoute]]"
    mints_id_token: bool = False


class TokenRejected(Exception):
    """A bearer is not good. reason: missing, unknown, expired, revoked."""

    def __init__(self, reason: str, account: Account | None = None) -> None:
        super().__init__(f"The token was rejected: {reason}.")
        self.reason = reason
        self.account = account


class RefreshRejected(Exception):
    """A refresh is refused. reason: unknown, reused, revoked, denied."""

    def __init__(self, reason: str, account: Account | None = None) -> None:
        super().__init__(f"The refresh was refused: {reason}.")
        self.reason = reason
        self.account = account


class World:
    """Everything the simulator knows; see the module's docstring."""

    def __init__(self, vendors: Iterable[Vendor], *, requests_kept: int = 500) -> None:
        self.vendors = {vendor.provider: vendor for vendor in vendors}
        self.accounts: dict[str, Account] = {}
        self.defaults: dict[str, Any] = {}
        self.records = Records(self.label, kept=requests_kept)
        self.codes = Codes()
        self._tokens: dict[str, Token] = {}
        self._serials = itertools.count(1)
        self._families = itertools.count(1)

    # -- accounts ---------------------------------------------------------------------------

    def create_account(self, provider: str, name: str = "", *, email: str = "") -> Account:
        """A new account without tokens. KeyError: no such provider. ValueError: name taken."""
        vendor = self.vendors[provider]
        if not name:
            name = next(
                candidate
                for number in itertools.count(1)
                if (candidate := f"{provider}-{number}") not in self.accounts
            )
        if name in self.accounts:
            raise ValueError(f"There is an account {name!r} already.")
        now = datetime.now(UTC)
        account = Account(
            name=name,
            provider=provider,
            email=email or f"{name}@simulated.example",
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"sim:account:{name}")),
            organization_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"sim:organization:{name}")),
            plan=vendor.plan,
            windows={
                kind: Window(
                    kind=kind,
                    length_seconds=seconds,
                    used_fraction=0.0,
                    resets_at=now + timedelta(seconds=seconds),
                )
                for kind, seconds in vendor.windows.items()
            },
        )
        self.accounts[name] = account
        return account

    def knobs(self, account: Account | None = None) -> Knobs:
        """How `account` behaves now: its own overrides over the defaults."""
        return Knobs(**{**self.defaults, **(account.overrides if account else {})})

    def turn(self, account: Account | None, changes: Mapping[str, Any]) -> Knobs:
        """Sets knobs of an account, or the defaults; None takes a knob back.

        Raises pydantic.ValidationError for unknown knobs and bad values, and changes nothing then.
        """
        kept = account.overrides if account else self.defaults
        merged = {key: value for key, value in {**kept, **changes}.items() if value is not None}
        checked = Knobs(**{**self.defaults, **merged})
        kept.clear()
        kept.update(merged)
        return checked

    def use_windows(self, account: Account) -> None:
        """Counts one prompt; starts windows anew whose time is over."""
        account.counters["prompts"] += 1
        now = datetime.now(UTC)
        for window in account.windows.values():
            if window.resets_at <= now:
                window.used_fraction = 0.0
                window.resets_at = now + timedelta(seconds=window.length_seconds)
            window.used_fraction = min(1.0, window.used_fraction + 0.001)

    def exhausted(self, account: Account) -> Window | None:
        """The window that stops this account, if one does."""
        knobs = self.knobs(account)
        now = datetime.now(UTC)
        first = next(iter(account.windows.values()))
        if knobs.limit_reached:
            if account.fraction_before_limit is None or first.resets_at <= now:
                account.fraction_before_limit = first.used_fraction
                first.used_fraction = 1.0
                first.resets_at = now + timedelta(seconds=knobs.limit_resets_in_seconds)
            return first
        if account.fraction_before_limit is not None:
            first.used_fraction = account.fraction_before_limit
            account.fraction_before_limit = None
        return next(
            (
                window
                for window in account.windows.values()
                if window.used_fraction >= 1.0 and window.resets_at > now
            ),
            None,
        )

    # -- tokens -----------------------------------------------------------------------------

    def log_in(self, account: Account, *, lifetime_seconds: float | None = None) -> TokenPair:
        """A new family of tokens. A negative lifetime gives an access token already expired."""
        account.counters["logins"] += 1
        return self._issue(account, next(self._families), lifetime_seconds)

    def give_api_key(self, account: Account) -> Token:
        """The API key of an account, made the first time; it does not expire."""
        if account.api_key is None:
            account.api_key = self._mint(account, "api_key", next(self._families), None)
        return account.api_key

    def authenticate(self, provider: str, bearer: str) -> Account:
        """Whose access token (or API key) this is. Raises TokenRejected."""
        if not bearer:
            raise TokenRejected("missing")
        token = self._tokens.get(bearer)
        if token is None or token.kind not in ("access", "api_key"):
            raise TokenRejected("unknown")
        account = self.accounts[token.account]
        reason = ""
        if account.provider != provider:
            raise TokenRejected("unknown")
        if token.revoked or self.knobs(account).tokens_rejected:
            reason = "revoked"
        elif token.expires_at is not None and token.expires_at <= datetime.now(UTC):
            reason = "expired"
        if reason:
            account.counters["rejected"] += 1
            raise TokenRejected(reason, account)
        return account

    def refresh_owner(self, provider: str, refresh_token: str) -> Account | None:
        """Whose refresh token this is, good or not; for knobs that act before the refresh."""
        token = self._tokens.get(refresh_token)
        if token is None or token.kind != "refresh":
            return None
        account = self.accounts[token.account]
        return account if account.provider == provider else None

    def refresh(self, provider: str, refresh_token: str) -> TokenPair:
        """New tokens for a refresh token. Raises RefreshRejected.

        Where the vendor rotates, a token that was used before revokes its whole family.
        """
        account = self.refresh_owner(provider, refresh_token)
        if account is None:
            raise RefreshRejected("unknown")
        token = self._tokens[refresh_token]
        reason = ""
        if self.knobs(account).refresh_denied:
            reason = "denied"
        elif token.used_at is not None and self.vendors[provider].rotates_refresh_tokens:
            self._revoke(lambda other: other.family == token.family)
            reason = "reused"
        elif token.revoked:
            reason = "revoked"
        if reason:
            account.counters["refreshes_refused"] += 1
            raise RefreshRejected(reason, account)
        account.counters["refreshes"] += 1
        token.used_at = datetime.now(UTC)
        return self._issue(account, token.family, None, kept_refresh=token)

    def expire_tokens(self, account: Account) -> None:
        """Every access token of the account is over; its refresh tokens stay good."""
        now = datetime.now(UTC)
        for token in self._tokens.values():
            if token.account == account.name and token.kind == "access":
                token.expires_at = now

    def revoke(self, account: Account) -> None:
        """Every token given out so far is dead, as after signing out everywhere."""
        self._revoke(lambda token: token.account == account.name)

    def label(self, value: str) -> str | None:
        """`account/kind#serial` when `value` is a token or code that was given out here."""
        token = self._tokens.get(value)
        return token.label if token else self.codes.label(value)

    def _issue(
        self,
        account: Account,
        family: int,
        lifetime_seconds: float | None,
        *,
        kept_refresh: Token | None = None,
    ) -> TokenPair:
        vendor = self.vendors[account.provider]
        if lifetime_seconds is None:
            lifetime_seconds = self.knobs(account).token_lifetime_seconds
        expires_at = datetime.now(UTC) + timedelta(seconds=lifetime_seconds)
        access = self._mint(account, "access", family, expires_at)
        if kept_refresh is None or vendor.rotates_refresh_tokens:
            refresh = self._mint(account, "refresh", family, None)
        else:
            refresh = kept_refresh
        id_token = ""
        if vendor.mints_id_token:
            id_token = self._mint(account, "id", family, expires_at).value
        self._forget_oldest(account)
        return TokenPair(serial=access.serial, access=access, refresh=refresh, id_token=id_token)

    def _mint(
        self, account: Account, kind: TokenKind, family: int, expires_at: datetime | None
    ) -> Token:
        serial = next(self._serials)
        now = datetime.now(UTC)
        value = self.vendors[account.provider].mint(
            Minting(account=account, kind=kind, serial=serial, issued_at=now, expires_at=expires_at)
        )
        token = Token(
            account=account.name,
            kind=kind,
            serial=serial,
            value=value,
            family=family,
            issued_at=now,
            expires_at=expires_at,
        )
        self._tokens[value] = token
        return token

    def _forget_oldest(self, account: Account) -> None:
        owned = [token for token in self._tokens.values() if token.account == account.name]
        for token in owned[: max(0, len(owned) - MOST_TOKENS_PER_ACCOUNT)]:
            del self._tokens[token.value]

    def _revoke(self, falls: Callable[[Token], bool]) -> None:
        for token in self._tokens.values():
            if falls(token):
                token.revoked = True
