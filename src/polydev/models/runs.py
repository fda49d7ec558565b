"""What a run is asked to do, and its record."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from polydev.events import EndReason, Outcome, UsageReported


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    text: str
    type: Literal["text"] = "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """media_type: `image/png`, `image/jpeg`, `image/gif` or `image/webp`; data: base64 text."""

    media_type: str
    data: str
    type: Literal["image"] = "image"


Part = Text | Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]

    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Everything that reaches the provider.

    model: the vendor's name for it.
    system: replaces the CLI's own system prompt; empty leaves the CLI almost silent.
    turns: the last one is the user's question, those before it are history.
    max_tokens: passed on where the CLI can honour it exactly; polydev enforces it anyway.
    """

    model: str
    turns: tuple[Turn, ...]
    system: str = ""
    max_tokens: int | None = None

    @property
    def history(self) -> tuple[Turn, ...]:
        return self.turns[:-1]

    @property
    def question(self) -> Turn:
        return self.turns[-1]


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LIMITED = "limited"

    @property
    def is_final(self) -> bool:
        return not RUN_TRANSITIONS[self]


_ENDS = frozenset(RunState(outcome.value) for outcome in Outcome)

RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING}) | _ENDS,
    RunState.RUNNING: _ENDS,
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
    RunState.LIMITED: frozenset(),
}


class Surface(StrEnum):
    """Where a run was asked for."""

    CHAT = "chat"
    MESSAGES = "messages"
    NATIVE = "native"
    DASHBOARD = "dashboard"
    CHECK = "check"  # a connection proved by a live call


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The record of one run; its texts are in its event log."""

    id: str
    user_id: str
    connection_id: str
    provider: str
    model: str
    surface: Surface
    state: RunState
    created_at: datetime
    key_id: str | None = None
    started_at: datetime | None = None
    first_token_at: datetime | None = None
    finished_at: datetime | None = None
    reason: EndReason | None = None
    message: str = ""
    retry_at: datetime | None = None
    usage: UsageReported | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """A prompt on its way to becoming a run.

    stop: sequences that end the answer; they are not part of it.
    timeout_seconds: None takes the configured one.
    """

    provider: str
    prompt: Prompt
    surface: Surface
    stop: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    connection_id: str | None = None
