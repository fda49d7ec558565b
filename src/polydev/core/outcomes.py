"""Between the ends of runs and the errors that callers are answered with, both ways."""

from polydev.errors import (
    ConnectionProblem,
    EgressProblem,
    InvalidRequest,
    NeedsLogin,
    PolydevError,
    ProgramMissing,
    ProviderProblem,
    ProxyProblem,
    RunFailed,
    SandboxUnavailable,
    TooManyRequests,
    WindowExhausted,
)
from polydev.events import EndReason, RunFinished
from polydev.providers.base import finished


class GatewayFailed(PolydevError):
    code = "gateway_failed"


class RunTimedOut(RunFailed):
    status = 504
    code = "run_timed_out"


class RunCancelled(RunFailed):
    status = 499
    code = "run_cancelled"


class ProviderLimited(TooManyRequests):
    """The provider's short-rate limit, or its overload; not the subscription's window."""

    code = "provider_rate_limited"


_NEEDS_LOGIN = (
    "Ask once more: a login that polydev took is renewed first. If that does not help, log in "
    "with the provider's CLI and connect its file: `polydev connect PROVIDER --from …`."
)
PROXY_REMEDY = (
    "Nothing was sent without it. See to the proxy, or name another: "
    "`polydev proxy CONNECTION ADDRESS`; `polydev connections` shows which it is."
)
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
        _NEEDS_LOGIN,
    ),
    EndReason.PROVIDER_ERROR: (ProviderProblem, "Nothing is wrong here; try again later."),
    EndReason.PROXY_FAILED: (ProxyProblem, PROXY_REMEDY),
    EndReason.INVALID_REQUEST: (InvalidRequest, "The provider refused the request as it is."),
    EndReason.CLI_FAILED: (RunFailed, "The run's log has more; `polydev doctor` checks the CLI."),
    EndReason.SANDBOX_FAILED: (SandboxUnavailable, "`polydev doctor` says what is missing."),
    EndReason.GATEWAY_FAILED: (GatewayFailed, "Nothing is wrong with the request; see the log."),
    EndReason.GATEWAY_STOPPED: (
        RunFailed,
        "The gateway was stopped meanwhile. The provider may have been asked; it was not repeated.",
    ),
}


# How a run ends that an error kept from its end; the first class that fits counts.
_ENDS: tuple[tuple[type[PolydevError], EndReason], ...] = (
    (WindowExhausted, EndReason.WINDOW_EXHAUSTED),
    (ConnectionProblem, EndReason.NEEDS_LOGIN),
    (ProxyProblem, EndReason.PROXY_FAILED),
    (ProviderProblem, EndReason.PROVIDER_ERROR),
    (SandboxUnavailable, EndReason.SANDBOX_FAILED),
    (EgressProblem, EndReason.SANDBOX_FAILED),
    (ProgramMissing, EndReason.SANDBOX_FAILED),
    (RunFailed, EndReason.CLI_FAILED),
)


def end_from(error: PolydevError) -> RunFinished:
    """The end of a run that `error` broke off."""
    reason = next((end for kind, end in _ENDS if isinstance(error, kind)), EndReason.GATEWAY_FAILED)
    return finished(reason, error.message, retry_at=error.retry_at)


def our_mistake() -> RunFinished:
    """The end of a run that met a defect of polydev."""
    return finished(EndReason.GATEWAY_FAILED, "polydev made a mistake; its log has the details.")


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
