"""What an entry for an ACP agent holds: everything that tells one agent from another, as data.

The few things that no data can say (what a credential file means, how a session file is written)
are small pure functions of the entry's own module. Texts of `environment` and `arguments` may
hold `{home}`, `{model}`, `{sentinel}` and `{url}` (egress as the sandbox reaches it).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from polydev.events import EndReason
from polydev.models.accounts import Credential
from polydev.models.egress import AddedHeader, Exchange, Rule
from polydev.models.runs import Turn
from polydev.providers.base import Catalogue, Program
from polydev.providers.login import KeyWay, LoginWay
from polydev.secret import Secret

Files = Mapping[str, Secret[bytes]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """One sort of login of an agent: where its requests go, and how the agent is told.

    host: the provider host that the sandbox's loopback port stands for.
    asks: what it may ask there, as (method, path pattern).
    answers: pattern of the paths whose failure is the run's failure; others may fail unharmed.
    header: what egress sets.
    environment, settings: beside the agent's own.
    no_system: what stands in the place of an empty system prompt.
    """

    host: str
    asks: tuple[tuple[str, str], ...]
    answers: str
    header: AddedHeader
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    no_system: str = ""

    def decides(self, exchange: Exchange) -> bool:
        """Whether the run stands and falls with this exchange."""
        is_here = exchange.host == self.host and not exchange.refused
        return is_here and re.fullmatch(self.answers, exchange.path) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refresh:
    """How an agent renews its login, where it can.

    asks: what the keeper's sandbox may ask; token endpoints are sealed.
    due: the files of a login that the agent refreshes as soon as it starts.
    renewed: the credential after the token endpoint's answer.
    """

    asks: tuple[Rule, ...]
    due: Callable[[Credential], Files]
    renewed: Callable[[Credential, Secret[bytes], datetime], Credential]


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """A session that is to be continued, for the function that writes its file.

    turns: as the agent is to keep them; their roles need not alternate.
    """

    session_id: str
    workspace: PurePosixPath
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """How an agent is given turns that it never had.

    method: the request that opens such a session: `session/load` or `session/resume`.
    file: path under HOME and content of the session file.
    replays: the agent repeats the answers of the past as if they were new, each in one piece.
    always: sessions without a past are given an empty one too, which keeps the agent from
        describing its surroundings in front of the question.
    """

    method: str
    file: Callable[[Past], tuple[str, bytes]]
    replays: bool
    always: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """Beginnings of a text (blanks aside) that the agent takes for something else.

    question: it would carry it out itself; history: it would leave the turn out.
    substituted: a pattern that it fills in within the system prompt.
    """

    question: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    substituted: str = r"(?!)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """One ACP agent.

    arguments: after the script.
    settings_file, settings: the agent's own settings, made as lean as they get.
    system_file: where the agent is told to look for the system prompt.
    login_ways: how one logs in with it, best first; login_asks: what it may ask meanwhile.
    logins: by `Credential.kind`.
    phrases: pattern in an error's text → what it means; the first that is found decides, before
        any status does.
    chooses: pattern of the model that a session announces where the agent would let another one
        answer than it was told; the run ends instead.
    repeats: it asks again by itself after a 429 or a 5xx, and cannot be told not to.
    """

    name: str
    title: str
    program: Program
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    settings_file: str
    settings: Mapping[str, Any]
    system_file: str
    catalogue: Catalogue
    credential_file: PurePosixPath
    login_command: str
    logins: Mapping[str, Login]
    read_credential: Callable[[Files], Credential]
    login_ways: tuple[LoginWay | KeyWay, ...] = ()
    login_asks: tuple[Rule, ...] = ()
    refresh: Refresh | None = None
    history: History | None = None
    guard: Guard = field(default_factory=Guard)
    phrases: tuple[tuple[str, EndReason], ...] = ()
    takes_images: bool = True
    chooses: str = r"(?!)"
    repeats: bool = False
