"""A login: one timed attempt to create or renew a credential, and its legal states."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class LoginMethod(StrEnum):
    """How a person proves to the provider who they are."""

    THIS_MACHINE = "this_machine"  # gateway and browser on one computer: the CLI's own callback
    DEVICE_CODE = "device_code"  # a code to type on the provider's page
    PASTE_CODE = "paste_code"  # a code from the provider's page, pasted here
    RELAYED_CALLBACK = "relayed_callback"  # the address of the page that cannot be reached
    API_KEY = "api_key"
    REMOTE_DESKTOP = "remote_desktop"


class LoginState(StrEnum):
    REQUESTED = "requested"
    STARTING = "starting"  # its sandbox is being made, the CLI started in it
    READY = "ready"  # the CLI runs
    WAITING_FOR_USER = "waiting_for_user"  # the person has what they need to log in
    CREDENTIAL_SEEN = "credential_seen"  # the CLI wrote its file
    PROVED = "proved"  # a live call was answered with it
    CONNECTED = "connected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return not LOGIN_TRANSITIONS[self]


_UNFINISHED_ENDS = frozenset({LoginState.EXPIRED, LoginState.CANCELLED, LoginState.FAILED})

LOGIN_TRANSITIONS: Mapping[LoginState, frozenset[LoginState]] = {
    LoginState.REQUESTED: frozenset({LoginState.STARTING}) | _UNFINISHED_ENDS,
    LoginState.STARTING: frozenset({LoginState.READY, LoginState.CREDENTIAL_SEEN})
    | _UNFINISHED_ENDS,
    LoginState.READY: frozenset({LoginState.WAITING_FOR_USER, LoginState.CREDENTIAL_SEEN})
    | _UNFINISHED_ENDS,
    LoginState.WAITING_FOR_USER: frozenset({LoginState.CREDENTIAL_SEEN}) | _UNFINISHED_ENDS,
    LoginState.CREDENTIAL_SEEN: frozenset({LoginState.PROVED}) | _UNFINISHED_ENDS,
    LoginState.PROVED: frozenset({LoginState.CONNECTED}) | _UNFINISHED_ENDS,
    LoginState.CONNECTED: frozenset(),
    LoginState.EXPIRED: frozenset(),
    LoginState.CANCELLED: frozenset(),
    LoginState.FAILED: frozenset(),
}


class LoginTrouble(StrEnum):
    """Why a login failed, for programs."""

    DENIED = "denied"  # the provider, or the person there, said no
    WRONG_CODE = "wrong_code"
    WRONG_STATE = "wrong_state"
    PORT_TAKEN = "port_taken"  # the CLI's callback cannot be offered on this machine
    NOT_UNDERSTOOD = "not_understood"  # the CLI's words have changed
    CLI_ENDED = "cli_ended"
    CLI_MISSING = "cli_missing"
    NO_SANDBOX = "no_sandbox"
    NO_NETWORK = "no_network"  # egress or the provider out of reach
    PROXY_FAILED = "proxy_failed"  # the outbound proxy that it was to leave by
    NOT_PROVED = "not_proved"  # the live call was not answered
    NOT_STORED = "not_stored"
    GATEWAY_STOPPED = "gateway_stopped"
    INTERNAL = "internal"


# How a line of a log begins that tells of a state; no other does.
STATE_MARK = "→ "


@dataclass(frozen=True, kw_only=True, slots=True)
class LoginLine:
    """One line of a login's log, masked: what the CLI printed, or what polydev saw."""

    at: datetime
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """The record of one login.

    command: what is run, as a person would type it.
    link, user_code: what the person needs, while it waits for them; never stored.
    reason: why it failed, for programs; message: how it stands, in words, for the person.
    connection_id: the connection that came of it.
    """

    id: str
    user_id: str
    provider: str
    method: LoginMethod
    state: LoginState
    created_at: datetime
    expires_at: datetime
    changed_at: datetime
    command: str = ""
    link: str = ""
    user_code: str = ""
    reason: LoginTrouble | None = None
    message: str = ""
    connection_id: str | None = None
    finished_at: datetime | None = None
