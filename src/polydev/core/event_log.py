"""The numbered events of one run, as they happen.

Whoever streams reads the same list by position, so a slow reader holds nobody up and costs no
queue. Deltas that arrive together (in one turn of the event loop) become one event before they
get a number; a number, once given, never changes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from polydev.events import Event, ReasoningDelta, Recorded, RunFinished, TextDelta


class EventLog:
    """on_record: called with each event as it gets its number (the writer); must not block."""

    def __init__(self, on_record: Callable[[Recorded], None] = lambda _: None) -> None:
        self._records: list[Recorded] = []
        self._pending: TextDelta | ReasoningDelta | None = None
        self._changed = asyncio.Event()
        self._on_record = on_record
        self._loop = asyncio.get_running_loop()

    @property
    def finished(self) -> bool:
        return bool(self._records) and isinstance(self._records[-1].event, RunFinished)

    @property
    def records(self) -> tuple[Recorded, ...]:
        """Everything so far."""
        return tuple(self._records)

    def append(self, event: Event) -> None:
        if self.finished:
            return
        event = _storable(event)
        if isinstance(event, TextDelta | ReasoningDelta):
            if self._pending is not None and type(self._pending) is type(event):
                self._pending = type(event)(text=self._pending.text + event.text)
                return
            self._flush()
            self._pending = event
            self._loop.call_soon(self._flush)
            return
        self._flush()
        self._record(event)

    async def follow(self, after: int = 0) -> AsyncIterator[Recorded]:
        """Events with numbers above `after`, until the run is finished."""
        position = max(0, after)
        while True:
            while position < len(self._records):
                record = self._records[position]
                position += 1
                yield record
            if self.finished:
                return
            changed = self._changed
            await changed.wait()

    async def wait_finished(self) -> RunFinished:
        async for record in self.follow(max(0, len(self._records) - 1)):
            if isinstance(record.event, RunFinished):
                return record.event
        raise AssertionError("a log is followed until its run is finished")

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._record(pending)

    def _record(self, event: Event) -> None:
        record = Recorded(number=len(self._records) + 1, at=datetime.now(UTC), event=event)
        self._records.append(record)
        try:
            self._on_record(record)
        finally:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()


def _storable(event: Event) -> Event:
    """`event` without what JSON may hold and nothing else can: half characters, and NUL."""
    changed: dict[str, Any] = {
        item.name: text.encode(errors="replace").decode().replace("\0", "\ufffd")
        for item in fields(event)
        if isinstance(text := getattr(event, item.name), str)
        and not (text.isascii() and "\0" not in text)
        and item.name != "type"
    }
    return replace(event, **changed) if changed else event
