"""Tells whoever shows a person's things that some of them changed.

A notice is a topic, so what waits for a slow listener is a set of topics: bounded, and nothing is
ever missed. The store publishes what it writes, `Runs` and `Windows` what they hold before it.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from polydev.errors import Busy
from polydev.models.notices import Topic

_LISTENERS_OF_ONE = 64


class Listener:
    def __init__(self) -> None:
        self._waiting: set[Topic] = set()
        self._some = asyncio.Event()
        self._over = False

    def end(self) -> None:
        self._over = True
        self._some.set()

    def add(self, topic: Topic) -> None:
        self._waiting.add(topic)
        self._some.set()

    async def changed(self) -> frozenset[Topic] | None:
        """What changed since it was last asked; waits until something has. None is the end."""
        await self._some.wait()
        if self._over:
            return None
        self._some.clear()
        topics = frozenset(self._waiting)
        self._waiting.clear()
        return topics


class Notices:
    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = {}

    def publish(self, user_id: str, topic: Topic) -> None:
        for listener in self._listeners.get(user_id, ()):
            listener.add(topic)

    def close(self) -> None:
        """Ends all listening: the gateway stops."""
        for listener in [one for listeners in self._listeners.values() for one in listeners]:
            listener.end()

    @contextmanager
    def listen(self, user_id: str) -> Iterator[Listener]:
        """Hears of this person's things until the end of the block. Raises Busy."""
        of_user = self._listeners.setdefault(user_id, set())
        if len(of_user) >= _LISTENERS_OF_ONE:
            raise Busy(
                f"{_LISTENERS_OF_ONE} pages are watching already, as many as may.",
                remedy="Close some of them.",
            )
        listener = Listener()
        of_user.add(listener)
        try:
            yield listener
        finally:
            of_user.discard(listener)
            if not of_user:
                self._listeners.pop(user_id, None)
