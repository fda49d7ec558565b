"""How long a CLI's next line is waited for.

As long as `silence_seconds`; but once egress saw an answer after which the CLI would ask the
provider again by itself, only so long as it takes to say that it gave up, and once it did ask
again, no longer. Whether something is asked again is the caller's decision, and a CLI may go on
for minutes.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from polydev.events import EndReason, RunFinished
from polydev.models.egress import Exchange
from polydev.providers.base import Provider, finished

_GRACE_SECONDS = 0.8


class Patience:
    def __init__(self, provider: Provider, silence_seconds: float) -> None:
        self._provider = provider
        self._silence_seconds = silence_seconds
        self._given_up: RunFinished | None = None
        self._deadline = float("inf")
        self._wait: asyncio.Timeout | None = None
        self._last: tuple[Exchange, EndReason | None] | None = None

    def saw(self, exchange: Exchange) -> None:
        """Told of each exchange as it ends."""
        if self._given_up is not None:
            return
        title = self._provider.title
        if exchange.asked_again:
            self._give_up(finished(EndReason.PROVIDER_ERROR, self._why_again()), 0)
        elif not exchange.refused and not exchange.unreachable:
            observed = self._provider.observe(exchange, datetime.now(UTC))
            self._last = exchange, observed.trouble
            if observed.repeats is not None:
                message = f"{title} answered with status {exchange.status}."
                end = finished(observed.repeats, message, retry_at=observed.retry_at)
                self._give_up(end, _GRACE_SECONDS)

    def _why_again(self) -> str:
        """What the CLI heard before it asked again."""
        title = self._provider.title
        if self._last is None or self._last[1] is None:
            return f"{title}'s answer broke off, and its CLI wanted to ask again."
        exchange, trouble = self._last
        if trouble is EndReason.NEEDS_LOGIN:
            return f"{title} refused the login's access token."
        return f"{title} answered with status {exchange.status}."

    def _give_up(self, end: RunFinished, grace_seconds: float) -> None:
        self._given_up = end
        self._deadline = asyncio.get_running_loop().time() + grace_seconds
        if self._wait is not None:
            self._wait.reschedule(self._deadline)

    async def next(self, lines: AsyncIterator[bytes]) -> bytes | RunFinished | None:
        """The next line; None at the end of the output; or an end, when none came in time."""
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(
                min(now + self._silence_seconds, self._deadline)
            ) as self._wait:
                return await anext(lines, None)
        except TimeoutError:
            return self._given_up or finished(
                EndReason.CLI_FAILED,
                f"The CLI said nothing for {self._silence_seconds:g} s and was stopped.",
            )
        finally:
            self._wait = None
