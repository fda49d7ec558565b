"""Why a request gets no answer from a provider."""


class Refused(Exception):
    """Egress does not pass this request on. `reason` names no secret."""

    def __init__(self, reason: str, *, status: int = 403) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class Unreachable(Exception):
    """No answer came from upstream: 502, or 504 when it took too long."""

    def __init__(self, reason: str, *, status: int = 502) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class ProxyFailed(Unreachable):
    """The connection's outbound proxy is what no answer came through."""
