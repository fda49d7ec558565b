"""What can be said about a run: the one vocabulary between providers and API surfaces.

Every provider decodes its CLI's lines into these; every surface encodes from them. An event is a
frozen fact in the past tense. Its number within the run and its time are given by the run's log,
not by the provider, so they live in `Recorded`.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Discriminator, TypeAdapter


class EndReason(StrEnum):
    """Why a run ended; `stop` and `length` are the good ends."""

    STOP = "stop"  # the model was done, or met a stop sequence
    LENGTH = "length"  # max_tokens reached
    REFUSAL = "refusal"  # the model declined
    CANCELLED = "cancelled"  # the caller asked, or went away
    TIMED_OUT = "timed_out"
    RATE_LIMITED = "rate_limited"  # short-rate limit or overload at the provider
    WINDOW_EXHAUSTED = "window_exhausted"  # the subscription's window is used up
    NEEDS_LOGIN = "needs_login"  # the provider refuses the credential
    PROVIDER_ERROR = "provider_error"  # the provider failed, or could not be reached
    PROXY_FAILED = "proxy_failed"  # the connection's outbound proxy
    INVALID_REQUEST = "invalid_request"  # the provider refused what was asked
    CLI_FAILED = "cli_failed"  # died, printed nonsense, said nothing
    SANDBOX_FAILED = "sandbox_failed"
    GATEWAY_FAILED = "gateway_failed"  # polydev's own store or code failed
    GATEWAY_STOPPED = "gateway_stopped"  # the gateway ended while the run was in flight


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LIMITED = "limited"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted:
    """The CLI accepted the prompt. `model` is the one that it says it uses."""

    model: str | None = None
    type: Literal["run.started"] = "run.started"


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDelta:
    text: str
    type: Literal["text.delta"] = "text.delta"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningDelta:
    text: str
    type: Literal["reasoning.delta"] = "reasoning.delta"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCalled:
    """`arguments` is JSON text, as the model wrote it."""

    call_id: str
    name: str
    arguments: str
    type: Literal["tool.called"] = "tool.called"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolReturned:
    call_id: str
    content: str
    is_error: bool = False
    type: Literal["tool.returned"] = "tool.returned"


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageReported:
    """Tokens of the whole run so far, as the provider counts them."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    type: Literal["usage.reported"] = "usage.reported"


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowObserved:
    """A limit period as the provider reported it.

    kind: the provider's own word for it (`five_hour`, `primary`, a model's quota).
    used_fraction: 0.0 to 1.0, None when the provider does not say.
    source: where it was read: `header` or `event`; when, the record's time tells.
    """

    kind: str
    used_fraction: float | None
    resets_at: datetime | None
    source: Literal["header", "event"]
    type: Literal["window.observed"] = "window.observed"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFinished:
    """The last event of every run.

    message: for a person; empty when the run succeeded.
    retry_at: when trying again makes sense, if the provider said so.
    stop_sequence: the caller's sequence that ended the answer, if one did.
    """

    outcome: Outcome
    reason: EndReason
    message: str = ""
    retry_at: datetime | None = None
    stop_sequence: str = ""
    type: Literal["run.finished"] = "run.finished"


Event = (
    RunStarted
    | TextDelta
    | ReasoningDelta
    | ToolCalled
    | ToolReturned
    | UsageReported
    | WindowObserved
    | RunFinished
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """An event with its place in its run: numbers start at 1 and have no gaps."""

    number: int
    at: datetime
    event: Annotated[Event, Discriminator("type")]


_recorded: TypeAdapter[Recorded] = TypeAdapter(Recorded)
_many: TypeAdapter[list[Recorded]] = TypeAdapter(list[Recorded])
_event: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Discriminator("type")])


def event_to_dict(event: Event) -> dict[str, Any]:
    """JSON-ready fields, `type` among them."""
    fields: dict[str, Any] = _event.dump_python(event, mode="json")
    return fields


def recorded_to_json(recorded: Recorded) -> bytes:
    return _recorded.dump_json(recorded)


def many_to_json(events: list[Recorded]) -> bytes:
    return _many.dump_json(events)


def many_from_json(data: bytes) -> list[Recorded]:
    """Raises pydantic.ValidationError for anything that `many_to_json` did not write."""
    return _many.validate_json(data)
