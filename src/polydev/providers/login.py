"""What a provider knows of logging in: the contract of its methods.

A `LoginDialogue` is one attempt with one CLI process as a state machine, like the dialogue of a
run: lines in, facts and lines out. It knows no clock and does no IO. Whoever drives it owns the
process, the waiting, and what happens when the credential file is written.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from polydev.errors import InvalidRequest
from polydev.models.logins import LoginMethod, LoginTrouble
from polydev.models.places import LINKS_FILE, Launch, Place
from polydev.secret import Secret

LOOPBACK_NAMES = ("localhost", "127.0.0.1")
OPENER = PurePosixPath(".polydev/bin/xdg-open")
_OPENER = f"""\
#!/bin/sh
printf '%s\\n' "$1" >> "$HOME/{LINKS_FILE}"
""".encode()

_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_MOST_CODE_CHARACTERS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class LoginOrder:
    """What a login's launch is made for. program and node: see LaunchOrder.

    authority: on a desktop, where egress reads nothing: what the CLI is to trust in place of the
        system's authorities, because a stand-in answers for the network; None in earnest.
    """

    place: Place
    program: PurePosixPath
    node: PurePosixPath
    authority: PurePosixPath | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Callback:
    """Where the CLI itself waits for the provider's redirect: a port on its own loopback.

    path: the only path that is taken; state: what the redirect must carry.
    after: paths to which the CLI then leads the browser, on the same port.
    """

    port: int
    path: str
    state: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoginStep:
    """What follows from one line.

    link: an address that the person is to open; user_code: what to type there.
    wants_code: the CLI waits for a code from that page.
    callback: where the CLI waits for the redirect of that page.
    trouble: why the attempt is over, with its words; done: the CLI says that it is logged in.
    log: what is worth a line in the login's log.
    """

    send: tuple[bytes, ...] = ()
    link: str = ""
    user_code: str = ""
    wants_code: bool = False
    callback: Callback | None = None
    trouble: LoginTrouble | None = None
    message: str = ""
    done: bool = False
    log: str = ""


class LoginDialogue(Protocol):
    """One attempt. After a step with `trouble` or `done` nothing more is fed to it."""

    def receive(self, line: bytes) -> LoginStep:
        """Takes one line of what the CLI prints, without its end."""

    def opened(self, link: str) -> LoginStep:
        """The CLI had a browser open this address."""

    def paste(self, code: str) -> tuple[bytes, ...]:
        """The lines that hand a pasted code to the CLI. Raises InvalidRequest for what is none."""

    def ended(self, exit_code: int, words: str) -> LoginStep:
        """What it means that the process ended; words: the end of its error output."""


class InTerminal:
    """A LoginDialogue of a command that speaks with the person itself, in a desktop's terminal."""

    def __init__(self, title: str) -> None:
        self._title = title

    def receive(self, line: bytes) -> LoginStep:
        return LoginStep()

    def opened(self, link: str) -> LoginStep:
        return LoginStep(link=link) if is_link(link) else LoginStep()

    def paste(self, code: str) -> tuple[bytes, ...]:
        raise InvalidRequest(
            "This login takes no code here.", remedy="Paste it into the desktop's terminal."
        )

    def ended(self, exit_code: int, words: str) -> LoginStep:
        return unspoken(exit_code, words, self._title) if exit_code else LoginStep(done=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoginWay:
    """One method of a provider's CLI.

    command: what is run, as a person would type it.
    launch: what to start; dialogue: a fresh one for each attempt.
    """

    method: LoginMethod
    command: str
    launch: Callable[[LoginOrder], Launch]
    dialogue: Callable[[], LoginDialogue]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyWay:
    """A key in place of a login: nothing is run.

    page: where a person makes one. pattern: what it looks like.
    files: what the CLI would keep of it, path under HOME → content.
    """

    page: str
    pattern: str
    files: Callable[[Secret[str]], Mapping[str, Secret[bytes]]]
    method: LoginMethod = LoginMethod.API_KEY
    command: str = ""


def opener(place: Place) -> Launch:
    """What keeps the address that a CLI has a browser open: its parts, for a launch of its own."""
    directory = place.home / OPENER.parent
    return Launch(
        argv=(),
        environment={
            "PATH": f"{directory}:/usr/bin:/bin",
            "BROWSER": str(place.home / OPENER),
            "DISPLAY": ":9",  # some open none where there is no screen
        },
        files={str(OPENER): Secret(_OPENER)},
        executable=frozenset({str(OPENER)}),
    )


def is_link(text: str) -> bool:
    """Whether it may be shown as a link: a web page under TLS, and nothing else."""
    return re.fullmatch(r"https://[!-~]{1,4000}", text) is not None


def callback_of(link: str, *after: str) -> Callback | None:
    """Where a link's redirect leads, when that is a port on the CLI's own loopback."""
    query = parse_qs(urlsplit(link).query)
    redirect = urlsplit((query.get("redirect_uri") or [""])[0])
    state = (query.get("state") or [""])[0]
    try:
        port = redirect.port
    except ValueError:
        return None
    if redirect.hostname not in LOOPBACK_NAMES or not port or not state:
        return None
    return Callback(port=port, path=redirect.path or "/", state=state, after=after)


def plain(line: bytes) -> str:
    """A line as a person reads it: without a terminal's escapes."""
    return _ESCAPES.sub(b"", line).decode(errors="replace").replace("\r", "").strip()


def pasted(text: str, pattern: str, provider: str) -> str:
    """What was pasted, if it has the form of a code."""
    code = text.strip()
    if len(code) > _MOST_CODE_CHARACTERS or not re.fullmatch(pattern, code):
        raise InvalidRequest(
            f"This is not a code from {provider}'s page.",
            remedy="Copy the whole code that the page shows after you allowed the access, and "
            "paste it here.",
            reason="wrong_code",
        )
    return code


def unspoken(exit_code: int, words: str, title: str) -> LoginStep:
    """The CLI ended without a credential and without saying why in words that are known."""
    said = f": {words.strip()[-300:]}" if words.strip() else ""
    return LoginStep(
        trouble=LoginTrouble.CLI_ENDED,
        message=f"{title}'s command ended (exit code {exit_code}) before a login was made{said}",
    )
