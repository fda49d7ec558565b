"""What a provider knows of logging in: the contract of its methods.

A `LoginDialogue` is one attempt with one CLI process as a state machine, like the dialogue of a
run: lines in, facts and lines out. It knows no clock and does no IO. Whoever drives it owns the
process, the waiting, and what happens when the credential file is written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from polydev.errors import InvalidRequest
from polydev.models.logins import LoginMethod, LoginTrouble
from polydev.models.places import Launch, Place

_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_MOST_CODE_CHARACTERS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class LoginOrder:
    """What a login's launch is made for. program and node: see LaunchOrder."""

    place: Place
    program: PurePosixPath
    node: PurePosixPath


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

    def paste(self, code: str) -> tuple[bytes, ...]:
        """The lines that hand a pasted code to the CLI. Raises InvalidRequest for what is none."""

    def ended(self, exit_code: int, words: str) -> LoginStep:
        """What it means that the process ended; words: the end of its error output."""


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


def plain(line: bytes) -> str:
    """A line as a person reads it: without a terminal's escapes, at most a few hundred characters."""
    return _ESCAPES.sub(b"", line).decode(errors="replace").replace("\r", "").strip()[:2000]


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
