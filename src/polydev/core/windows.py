"""What providers say of their windows while runs go on: stored soon, never waited for."""

import asyncio
from datetime import datetime

import structlog

from polydev.errors import PolydevError
from polydev.events import WindowObserved
from polydev.models.notices import Publish, Topic
from polydev.models.runs import Run
from polydev.models.windows import Window
from polydev.store import Store

log = structlog.get_logger()

_HELD = 1024


class Windows:
    def __init__(self, store: Store, publish: Publish) -> None:
        self._store = store
        self._publish = publish
        self._waiting: asyncio.Queue[tuple[Run, WindowObserved, datetime]] = asyncio.Queue(_HELD)

    def observed(self, run: Run, window: WindowObserved, at: datetime) -> None:
        """A run saw a window; it is stored soon."""
        if not self._waiting.full():  # newer ones come with every answer
            self._waiting.put_nowait((run, window, at))

    async def of(self, connection_id: str) -> tuple[Window, ...]:
        """The newest observation of each kind."""
        return await self._store.windows.of_connection(connection_id)

    async def store_forever(self) -> None:
        while True:
            run, window, at = await self._waiting.get()
            try:
                if await self._store.windows.observe(run.connection_id, window, at):
                    self._publish(run.user_id, Topic.CONNECTIONS)
            except PolydevError as error:
                log.warning("a window could not be stored", problem=str(error))
            except Exception:
                # The task's outermost boundary: later windows are worth storing all the same.
                log.exception("a window could not be stored")
