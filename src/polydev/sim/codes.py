"""What a login hands from the provider's pages to its token endpoint: authorizations and codes.

An authorization is what a CLI asks a person to allow; it is answered once. A code is what the CLI
gets for it: it lives for a short time, is good once, and only for whoever asked. CodeRefused says
why it is not. Device codes are found by what the person types. Nothing here waits; of each kind
the oldest go when there are too many.
"""

import base64
import hashlib
import itertools
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar

MOST_KEPT = 1000

# No vowels, so that no words come out, and nothing that is read as something else.
_USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_USER_CODE_LENGTHS = (4, 5)

T = TypeVar("T")


class Answer(StrEnum):
    """What the person said to an authorization."""

    OPEN = "open"
    ALLOWED = "allowed"
    DENIED = "denied"


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """A CLI as a provider knows it.

    title: the provider's name on its pages. name: who asks, as the pages say it.
    """

    provider: str
    title: str
    name: str
    client_id: str


@dataclass(kw_only=True, slots=True)
class Authorization:
    """What an application asks a person to allow, and how that stands.

    challenge: of PKCE, S256; empty when the application sent none.
    tells_scope: whether the redirect says what was granted.
    account: the name of the account that signed in; empty before.
    device: the device code that it is about, None when the answer goes to redirect_uri.
    """

    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    application: Application
    redirect_uri: str
    state: str = ""
    challenge: str = ""
    scope: str = ""
    tells_scope: bool = False
    login_hint: str = ""
    account: str = ""
    answer: Answer = Answer.OPEN
    device: "DeviceCode | None" = None


@dataclass(kw_only=True, slots=True)
class Code:
    """What the token endpoint takes, once."""

    value: str
    serial: int
    authorization: Authorization
    expires_at: datetime
    is_used: bool = False

    @property
    def label(self) -> str:
        return f"{self.authorization.account}/code#{self.serial}"


@dataclass(kw_only=True, slots=True)
class DeviceCode:
    """A code that a person types on another device. The provider keeps the PKCE verifier of it."""

    id: str
    user_code: str
    application: Application
    expires_at: datetime
    authorization: Authorization | None = None
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    is_collected: bool = False

    @property
    def is_expired(self) -> bool:
        return self.expires_at <= datetime.now(UTC)


class CodeRefused(Exception):
    """A code is not taken. reason: unknown, used, expired, client, redirect, state, verifier."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The code was refused: {reason}.")
        self.reason = reason


class Codes:
    """All authorizations and codes of a World."""

    def __init__(self) -> None:
        self._authorizations: dict[str, Authorization] = {}
        self._codes: dict[str, Code] = {}
        self._devices: dict[str, DeviceCode] = {}
        self._serials = itertools.count(1)

    def open(self, authorization: Authorization) -> Authorization:
        """Keeps it until it is answered, and a while longer."""
        return _keep(self._authorizations, authorization.id, authorization)

    def authorization(self, id: str) -> Authorization | None:
        return self._authorizations.get(id)

    def give(self, authorization: Authorization, *, lifetime_seconds: float) -> Code:
        """A new code for an authorization that was allowed."""
        code = Code(
            value=f"made-up-{secrets.token_urlsafe(32)}",
            serial=next(self._serials),
            authorization=authorization,
            expires_at=datetime.now(UTC) + timedelta(seconds=lifetime_seconds),
        )
        return _keep(self._codes, code.value, code)

    def look_up(self, value: str) -> Code | None:
        """The code as it stands, without taking it."""
        return self._codes.get(value)

    def take(
        self,
        value: str,
        *,
        provider: str,
        client_id: str,
        redirect_uri: str,
        verifier: str,
        state: str | None = None,
    ) -> Authorization:
        """What a code stands for; it is used up, also when the rest is wrong.

        state: compared only when given. Raises CodeRefused.
        """
        code = self._codes.get(value)
        if code is None or code.authorization.application.provider != provider:
            raise CodeRefused("unknown")
        if code.is_used:
            raise CodeRefused("used")
        code.is_used = True
        asked = code.authorization
        if code.expires_at <= datetime.now(UTC):
            raise CodeRefused("expired")
        if client_id != asked.application.client_id:
            raise CodeRefused("client")
        if redirect_uri != asked.redirect_uri:
            raise CodeRefused("redirect")
        if state is not None and state != asked.state:
            raise CodeRefused("state")
        if asked.challenge and challenge_of(verifier) != asked.challenge:
            raise CodeRefused("verifier")
        return asked

    def start_device(self, application: Application, *, lifetime_seconds: float) -> DeviceCode:
        """A device code that nobody has answered yet."""
        device = DeviceCode(
            id=f"made-up-{secrets.token_urlsafe(24)}",
            user_code="-".join(
                "".join(secrets.choice(_USER_CODE_LETTERS) for _ in range(length))
                for length in _USER_CODE_LENGTHS
            ),
            application=application,
            expires_at=datetime.now(UTC) + timedelta(seconds=lifetime_seconds),
        )
        return _keep(self._devices, device.id, device)

    def device(self, id: str) -> DeviceCode | None:
        return self._devices.get(id)

    def typed(self, user_code: str) -> DeviceCode | None:
        """The device code a person means; case, spaces and dashes do not matter."""
        wanted = _plain(user_code)
        return next(
            (device for device in self._devices.values() if _plain(device.user_code) == wanted),
            None,
        )

    def label(self, value: str) -> str | None:
        """`account/code#serial` when `value` is a code that was given out here."""
        code = self._codes.get(value)
        return code.label if code else None


def challenge_of(verifier: str) -> str:
    """The PKCE challenge (S256) of a verifier."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _plain(user_code: str) -> str:
    return "".join(letter for letter in user_code.upper() if letter.isalnum())


def _keep(kept: dict[str, T], key: str, value: T) -> T:
    kept[key] = value
    while len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]
    return value
