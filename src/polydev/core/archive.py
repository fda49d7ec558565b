"""Texts at rest: what runs were asked and what they said, sealed, read back, and removed in time."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import TypeAdapter

from polydev.errors import PolydevError
from polydev.events import Event, Recorded, RunFinished, many_from_json
from polydev.models.runs import Prompt, Run
from polydev.models.seals import events_context, request_context
from polydev.providers.base import finished
from polydev.store import Store
from polydev.store.runs import EventBatch
from polydev.vault import Vault

log = structlog.get_logger()

_PRUNE_SECONDS = 3600.0
_HIGHEST_NUMBER = 2**31 - 1  # that the store can compare with
_prompt: TypeAdapter[Prompt] = TypeAdapter(Prompt)


class Archive:
    """keep_days: how long texts are kept after their run's end; 0 keeps none."""

    def __init__(self, store: Store, vault: Vault, keep_days: float) -> None:
        self._store = store
        self._vault = vault
        self._keep = timedelta(days=keep_days)

    @property
    def keeps_texts(self) -> bool:
        return bool(self._keep)

    def sealed_prompt(self, run: Run, prompt: Prompt) -> bytes | None:
        """None when no texts are kept."""
        if not self.keeps_texts:
            return None
        return self._vault.seal(_prompt.dump_json(prompt), request_context(run))

    async def prompt(self, run: Run) -> Prompt | None:
        """What the run was asked; None when that was not kept, or is removed."""
        sealed = await self._store.runs.request(run.id)
        if sealed is None:
            return None
        return _prompt.validate_json(self._vault.open(sealed, request_context(run)).reveal())

    async def events(self, run: Run, after: int) -> AsyncIterator[Recorded]:
        """The stored events above a number. The last one is the run's end, kept or not."""
        number = after = min(after, _HIGHEST_NUMBER)
        last: Event | None = None
        while batches := await self._store.runs.events_after(run.id, number):
            for batch in batches:
                for recorded in self._opened(run, batch):
                    if recorded.number > number:
                        last = recorded.event
                        yield recorded
                number = batch.last_number
        if isinstance(last, RunFinished) or not run.state.is_final:
            return
        kept = await self._store.runs.last_event_number(run.id)
        if kept:
            batch = (await self._store.runs.events_after(run.id, kept - 1))[-1]
            if isinstance(self._opened(run, batch)[-1].event, RunFinished):
                return  # `after` is the end, or above it
        # The end's own event was not kept; whoever resumes, from wherever, is told of it.
        number = max(kept, after) + 1
        yield Recorded(number=number, at=run.finished_at or run.created_at, event=_end_of(run))

    async def prune_forever(self) -> None:
        while True:
            try:
                await self._store.runs.prune_texts(datetime.now(UTC) - self._keep)
            except PolydevError as error:
                log.warning("old texts could not be removed", problem=str(error))
            except Exception:
                # The task's outermost boundary: texts must not be kept for ever after one mistake.
                log.exception("removing old texts failed unexpectedly")
            await asyncio.sleep(_PRUNE_SECONDS)

    def _opened(self, run: Run, batch: EventBatch) -> list[Recorded]:
        context = events_context(run, batch.first_number)
        return many_from_json(self._vault.open(batch.sealed, context).reveal())


def _end_of(run: Run) -> RunFinished:
    assert run.reason is not None
    return finished(run.reason, run.message, retry_at=run.retry_at)
