"""What a provider is: the contract, and the pure parts that several share.

A provider knows a vendor's CLI: what to start, what to say to it, what its lines mean, what it
may ask of the network, and what its credential file holds. It does no IO. A `Dialogue` is one
conversation with one CLI process as a state machine: bytes in, events and bytes out; whoever
drives it owns the process, the waiting and the bounds.

Adding one is described in docs/adding-a-provider.md; tests/providers holds the suite that each
must pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Protocol

from polydev.errors import UnknownModel
from polydev.events import EndReason, Event, Outcome, RunFinished, WindowObserved
from polydev.models.accounts import Credential
from polydev.models.egress import EgressPolicy, Exchange, Purpose
from polydev.models.places import Launch, Place
from polydev.models.runs import Prompt
from polydev.providers.login import KeyWay, LoginWay
from polydev.secret import Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A CLI as it is installed.

    package: its npm package.
    file: the executable, under `node_modules`; `{platform}` stands for npm's word for the machine
        (`linux-x64`), `{target}` for what `targets` calls that.
    needs_node: it is a script, run by the Node that is installed beside it.
    """

    package: str
    file: str
    targets: Mapping[str, str] = field(default_factory=dict)
    needs_node: bool = False

    def file_on(self, platform: str) -> PurePosixPath:
        """The executable under `node_modules` on machines of this platform."""
        target = self.targets.get(platform, platform)
        return PurePosixPath(self.file.format(platform=platform, target=target))


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstStart:
    """What a CLI makes at its first start in an empty home, to be given to every later one.

    arguments: with these it makes that, and ends when its input does.
    keeps: shell patterns under HOME of what it made: the same for everybody, without ids.
    """

    arguments: tuple[str, ...]
    keeps: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """The models of a provider.

    names: vendor's names, the default first; aliases: other names → one of them.
    prefixes: a plain name with one of these prefixes is this provider's, listed or not: vendors
        bring out models faster than we bring out versions.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()

    @property
    def default(self) -> str:
        return self.names[0]

    def knows(self, name: str) -> bool:
        return (
            name in self.names or name in self.aliases or name.startswith(self.prefixes or ("\0",))
        )

    def resolve(self, name: str, provider: str) -> str:
        """The vendor's name for `name`; empty means the default. Raises UnknownModel."""
        if not name:
            return self.default
        if not self.knows(name):
            raise UnknownModel(
                f"{provider} has no model {name[:80]!r}.",
                remedy=f"Use one of: {', '.join(self.names)}. GET /v1/models lists all.",
                provider=provider,
            )
        return self.aliases.get(name, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOrder:
    """What a launch is made for.

    program: the CLI's executable (or script) as the place shows it.
    node: the Node that runs it, when it is a script.
    identity: the connection's own UUID; ids that a vendor ties to a device are derived from it.
    sentinel: the made-up token that the CLI is given in place of a real one.
    credential: for the keeper (whole) and for account ids; a run's launch never writes its tokens
        except, in `tunnel` mode, the access token alone.
    prompt: None for the keeper.
    """

    purpose: Purpose
    place: Place
    program: PurePosixPath
    node: PurePosixPath
    identity: str
    sentinel: Secret[str]
    credential: Credential
    prompt: Prompt | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What follows from one line: facts, and lines to send. `finished` closes the dialogue.

    retry_after_seconds: beside an end, when the CLI told a span: when trying again makes sense.
        Whoever has a clock makes `RunFinished.retry_at` of it.
    """

    events: tuple[Event, ...] = ()
    send: tuple[bytes, ...] = ()
    retry_after_seconds: float | None = None

    @property
    def finished(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], RunFinished)


class Dialogue(Protocol):
    """One process, one prompt. Lines are without their newline, in and out.

    `receive` raises RunFailed for a line that its CLI never writes. After a step that is
    `finished` nothing more is fed to it.
    """

    def open(self) -> tuple[bytes, ...]:
        """The first lines to send, after the launch's own opening."""

    def receive(self, line: bytes) -> Step:
        """Takes one line of the CLI's standard output."""

    def ended(self, exit_code: int, stderr: str) -> RunFinished:
        """What it means that the process ended before the dialogue was finished."""


class Provider(Protocol):
    """A vendor's CLI and how to speak to it. Pure: no IO, no clock, no randomness."""

    name: str
    title: str  # for people: "Claude"
    program: Program
    catalogue: Catalogue
    takes_images: bool
    takes_history: bool
    credential_file: PurePosixPath  # under HOME, where the CLI itself keeps it
    companion_files: tuple[PurePosixPath, ...]  # read beside it when they exist (account names)
    keychain_item: str  # on macOS, where it keeps it instead; empty when it does not
    login_command: str  # what its owner types to log in with it
    login_ways: tuple[LoginWay | KeyWay, ...]  # how one logs in through polydev, best first
    first_start: FirstStart | None  # where a start in an empty home takes its time
    starts_alone: bool  # of a credential its launch for a run needs the kind and nothing else
    ignores_max_tokens: bool  # the CLI has no way to pass it on; polydev alone enforces it

    def policy(self, purpose: Purpose, kind: str) -> EgressPolicy:
        """What a sandbox may ask for this purpose with a credential of this kind.

        A login has none yet: its kind is empty.
        """

    def launch(self, order: LaunchOrder) -> Launch:
        """What to start. For the keeper: something that refreshes and then waits or ends."""

    def dialogue(self, prompt: Prompt) -> Dialogue:
        """A fresh dialogue for one prompt."""

    def read_credential(self, files: Mapping[str, Secret[bytes]]) -> Credential:
        """Reads the CLI's credential file and companions. Raises CredentialUnreadable."""

    def renew(self, credential: Credential, answer: Secret[bytes], now: datetime) -> Credential:
        """The credential after a token endpoint's answer. Raises CredentialUnreadable."""

    def observe(self, exchange: Exchange, now: datetime) -> "Observation":
        """What the headers and the status of an answer say about windows and trouble."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What egress saw that the CLI does not pass on.

    trouble: why a failing answer failed, when its status tells; retry_at with it.
    repeats: for a CLI that would now ask again by itself: the run ends instead, with this reason,
        unless the CLI gives up at once.
    """

    windows: tuple[WindowObserved, ...] = ()
    trouble: EndReason | None = None
    retry_at: datetime | None = None
    repeats: EndReason | None = None


def finished(
    reason: EndReason, message: str = "", *, retry_at: datetime | None = None
) -> RunFinished:
    """A run's last event with the outcome that belongs to its reason."""
    return RunFinished(
        outcome=OUTCOMES.get(reason, Outcome.FAILED),
        reason=reason,
        message=message,
        retry_at=retry_at,
    )


OUTCOMES: Mapping[EndReason, Outcome] = {
    EndReason.STOP: Outcome.SUCCEEDED,
    EndReason.LENGTH: Outcome.SUCCEEDED,
    EndReason.REFUSAL: Outcome.SUCCEEDED,
    EndReason.CANCELLED: Outcome.CANCELLED,
    EndReason.RATE_LIMITED: Outcome.LIMITED,
    EndReason.WINDOW_EXHAUSTED: Outcome.LIMITED,
}


def integer(value: Any) -> int:
    """A count from JSON; anything else than a number is 0."""
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
