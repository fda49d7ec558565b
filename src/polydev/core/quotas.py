"""A key's own limits: requests per minute and runs at once. In memory, per gateway."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from polydev.errors import TooManyRequests
from polydev.models.accounts import ApiKey

_MINUTE = 60.0


class Quotas:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, deque[float]] = {}
        self._running: dict[str, int] = {}

    def count_request(self, key: ApiKey) -> None:
        """Raises TooManyRequests when this key asked too often in the last minute."""
        now = self._clock()
        times = self._requests.setdefault(key.id, deque())
        while times and times[0] <= now - _MINUTE:
            times.popleft()
        if len(times) >= key.requests_per_minute:
            seconds = times[0] + _MINUTE - now
            raise TooManyRequests(
                f"This key may ask {key.requests_per_minute} times a minute, and has.",
                remedy=f"Ask again in {seconds:.0f} s, or create a key with a higher limit.",
                retry_at=datetime.now(UTC) + timedelta(seconds=seconds),
            )
        times.append(now)

    @contextmanager
    def running(self, key: ApiKey) -> Iterator[None]:
        """One of the key's places for as long as a run lasts. Raises TooManyRequests."""
        running = self._running.get(key.id, 0)
        if running >= key.concurrent_runs:
            raise TooManyRequests(
                f"This key may have {key.concurrent_runs} runs at once, and has.",
                remedy="Wait for one to finish, or create a key with a higher limit.",
                retry_at=datetime.now(UTC) + timedelta(seconds=1),
            )
        self._running[key.id] = running + 1
        try:
            yield
        finally:
            left = self._running[key.id] - 1
            if left:
                self._running[key.id] = left
            else:
                del self._running[key.id]
