"""Every error that polydev raises on purpose.

    PolydevError
    ├── InvalidRequest            the caller's request cannot be carried out as it is
    │   ├── UnknownModel
    │   ├── PromptTooLarge
    │   ├── UnsupportedParameter      strict mode met a parameter that the CLI cannot honour
    │   └── ForeignHost               a browser's request under a host name that is not ours
    ├── Unauthenticated           no key, an unknown key, a revoked key
    │   └── NotSignedIn               a browser without a good cookie; a used or late link
    ├── Forbidden                 the key is good, the thing belongs to someone else or is disabled
    ├── NotFound
    ├── Conflict                  the thing changed, or exists already
    ├── TooManyRequests           polydev's own rate or concurrency limit; has retry_at
    ├── Busy                      the queue is full
    ├── ConnectionProblem
    │   ├── NoConnection              this user has no connection to this provider
    │   ├── NeedsLogin                the provider refused the credential
    │   ├── WindowExhausted           the provider said that the limit is reached; has retry_at
    │   └── CredentialUnreadable      a credential file is not what its CLI writes
    ├── LoginFailed               a login came to nothing; `reason` is a LoginTrouble
    ├── ProviderProblem           the provider answered with an error of its own, or not at all
    │   └── ProxyProblem              the connection's outbound proxy failed, or has no free port
    ├── RunFailed                 the CLI died, spoke nonsense, hung, or was stopped
    ├── SandboxUnavailable        this machine cannot make the sandbox that is configured
    ├── EgressProblem             the egress process did not start, or died
    ├── ProgramMissing            a CLI, or a program that polydev needs, is not installed
    ├── VaultProblem              wrong master key, damaged sealed data
    ├── StoreProblem              database unreachable, disk full
    └── SetupProblem              port taken, data directory in use, settings that contradict

Each says what happened, whether anything was lost, and what to do next, and carries fields to
branch on; no code reads the text. `status` is the HTTP status that the edges answer with and
`code` a stable word for programs. Errors of libraries are translated where they arise, with
`raise ... from`.
"""

from datetime import datetime


class PolydevError(Exception):
    """Base of all. `message` says what happened, `remedy` what to do next."""

    status = 500
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        reason: str = "",
        provider: str | None = None,
        retry_at: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.reason = reason or self.code
        self.provider = provider
        self.retry_at = retry_at

    def __str__(self) -> str:
        message = self.message.strip()
        if self.remedy and message and message[-1] not in ".!?:":
            message += "."
        return f"{message} {self.remedy}".strip()


class InvalidRequest(PolydevError):
    status = 400
    code = "invalid_request"


class UnknownModel(InvalidRequest):
    status = 404
    code = "model_not_found"


class PromptTooLarge(InvalidRequest):
    status = 413
    code = "prompt_too_large"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class ForeignHost(InvalidRequest):
    status = 421
    code = "foreign_host"


class Unauthenticated(PolydevError):
    status = 401
    code = "invalid_api_key"


class NotSignedIn(Unauthenticated):
    code = "not_signed_in"


class Forbidden(PolydevError):
    status = 403
    code = "forbidden"


class NotFound(PolydevError):
    status = 404
    code = "not_found"


class Conflict(PolydevError):
    status = 409
    code = "conflict"


class TooManyRequests(PolydevError):
    status = 429
    code = "rate_limited"


class Busy(PolydevError):
    status = 503
    code = "queue_full"


class ConnectionProblem(PolydevError):
    status = 503
    code = "connection_problem"


class NoConnection(ConnectionProblem):
    status = 403
    code = "no_connection"


class NeedsLogin(ConnectionProblem):
    status = 403
    code = "needs_login"


class WindowExhausted(ConnectionProblem):
    status = 429
    code = "window_exhausted"


class CredentialUnreadable(ConnectionProblem):
    status = 400
    code = "credential_unreadable"


class LoginFailed(PolydevError):
    status = 502
    code = "login_failed"


class ProviderProblem(PolydevError):
    status = 502
    code = "provider_error"


class ProxyProblem(ProviderProblem):
    code = "proxy_failed"


class RunFailed(PolydevError):
    status = 502
    code = "run_failed"


class SandboxUnavailable(PolydevError):
    status = 503
    code = "sandbox_unavailable"


class EgressProblem(PolydevError):
    status = 503
    code = "egress_problem"


class ProgramMissing(PolydevError):
    status = 503
    code = "program_missing"


class VaultProblem(PolydevError):
    code = "vault_problem"


class StoreProblem(PolydevError):
    status = 503
    code = "store_problem"


class SetupProblem(PolydevError):
    code = "setup_problem"
