"""A run that ended badly, as the error that its caller is answered with."""

from polydev.errors import (
    InvalidRequest,
    NeedsLogin,
    PolydevError,
    ProviderProblem,
    RunFailed,
    SandboxUnavailable,
    TooManyRequests,
    WindowExhausted,
)
from polydev.events import EndReason, RunFinished


class RunTimedOut(RunFailed):
    status = 504
    code = "run_timed_out"


class RunCancelled(RunFailed):
    status = 499
    code = "run_cancelled"


class ProviderLimited(TooManyRequests):
    """The provider's short-rate limit, or its overload; not the subscription's window."""

    code = "provider_rate_limited"


_ERRORS: dict[EndReason, tuple[type[PolydevError], str]] = {
    EndReason.CANCELLED: (RunCancelled, "Ask again if that was not meant."),
    EndReason.TIMED_OUT: (RunTimedOut, "Ask for less, or raise POLYDEV_RUNS__TIMEOUT_SECONDS."),
    EndReason.RATE_LIMITED: (ProviderLimited, "Wait until `retry-after` has passed."),
    EndReason.WINDOW_EXHAUSTED: (
        WindowExhausted,
        "The subscription's window opens again at the time given; nothing is wrong here.",
    ),
    EndReason.NEEDS_LOGIN: (
        NeedsLogin,
        "Log in with the provider's CLI and connect its file: `polydev connect PROVIDER --from …`.",
    ),
    EndReason.PROVIDER_ERROR: (ProviderProblem, "Nothing is wrong here; try again later."),
    EndReason.INVALID_REQUEST: (InvalidRequest, "The provider refused the request as it is."),
    EndReason.CLI_FAILED: (RunFailed, "The run's log has more; `polydev doctor` checks the CLI."),
    EndReason.SANDBOX_FAILED: (SandboxUnavailable, "`polydev doctor` says what is missing."),
    EndReason.GATEWAY_STOPPED: (
        RunFailed,
        "The gateway was stopped meanwhile. The provider may have been asked; it was not repeated.",
    ),
}


def error_from(end: RunFinished, provider: str) -> PolydevError | None:
    """None for a run that succeeded."""
    if end.reason not in _ERRORS:
        return None
    kind, remedy = _ERRORS[end.reason]
    return kind(
        end.message or f"The run ended: {end.reason.value}.",
        remedy=remedy,
        reason=end.reason.value,
        provider=provider,
        retry_at=end.retry_at,
    )
