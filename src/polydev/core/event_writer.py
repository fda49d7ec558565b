"""The one writer that takes runs' events to the disk.

Events are handed over without waiting; a batch is sealed and stored at most 100 ms or 16 KiB
after its first event. The live stream never waits for it. When the store cannot take a batch (a
full disk) the writer keeps trying, says so (`obstacle`), and holds up to a bound of events; past
it texts of the longest log are dropped and counted, ends of runs never.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from polydev.core.metrics import Metrics
from polydev.errors import Conflict, PolydevError, StoreProblem
from polydev.events import Recorded, RunFinished, UsageReported, many_to_json, recorded_to_json
from polydev.models.runs import Run
from polydev.models.seals import events_context
from polydev.store import Store
from polydev.store.runs import EventBatch
from polydev.vault import Vault

log = structlog.get_logger()

_LATEST_SECONDS = 0.1
_BATCH_BYTES = 16 * 1024
_HELD_BYTES = 64 * 2**20
_RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
_CLOSE_SECONDS = 10.0


@dataclass(kw_only=True, slots=True)
class _Pending:
    run: Run
    events: list[Recorded] = field(default_factory=list)
    bytes: int = 0
    started_at: datetime | None = None
    first_token_at: datetime | None = None
    usage: UsageReported | None = None
    finished: Recorded | None = None
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = False  # its log has a gap; only its end is still stored


class EventWriter:
    """keep_texts: False stores no events, only how runs ended."""

    def __init__(self, store: Store, vault: Vault, metrics: Metrics, *, keep_texts: bool) -> None:
        self._store = store
        self._vault = vault
        self._metrics = metrics
        self._keep_texts = keep_texts
        self._pending: dict[str, _Pending] = {}
        self._held_bytes = 0
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._closing = False
        self.obstacle = ""

    def opened(self, run: Run) -> None:
        """From now on events of this run may come."""
        self._pending[run.id] = _Pending(run=run)

    def started(self, run_id: str, at: datetime) -> None:
        self._pending[run_id].started_at = at
        self._wake.set()

    def record(self, run_id: str, recorded: Recorded) -> None:
        pending = self._pending[run_id]
        event = recorded.event
        if isinstance(event, UsageReported):
            pending.usage = event
        if isinstance(event, RunFinished):
            pending.finished = recorded
        if self._keep_texts and not pending.broken:
            size = len(recorded_to_json(recorded))
            pending.events.append(recorded)
            pending.bytes += size
            self._held_bytes += size
            if self._held_bytes > _HELD_BYTES:
                self._give_up(max(self._pending.values(), key=lambda one: one.bytes))
        self._wake.set()
        if pending.bytes >= _BATCH_BYTES or pending.finished:
            self._hurry.set()

    def first_token(self, run_id: str, at: datetime) -> None:
        self._pending[run_id].first_token_at = at

    async def wait_stored(self, run_id: str) -> None:
        """Until the run's end is in the store."""
        pending = self._pending.get(run_id)
        if pending is not None:
            await pending.stored.wait()

    async def write_forever(self) -> None:
        """The writer's task; ends after `close` when everything is stored."""
        failures = 0
        while True:
            await self._wake.wait()
            if not self._closing:
                try:
                    async with asyncio.timeout(_LATEST_SECONDS):
                        await self._hurry.wait()
                except TimeoutError:
                    pass  # the time limit is the other reason to write
            self._wake.clear()
            self._hurry.clear()
            try:
                await self._write()
            except Exception as error:
                if not self.obstacle:
                    unexpected = None if isinstance(error, PolydevError) else error
                    log.error(
                        "run events cannot be stored", problem=str(error), exc_info=unexpected
                    )
                self.obstacle = str(error) or type(error).__name__
                delay = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                failures += 1
                self._wake.set()
                await asyncio.sleep(delay)
                continue
            if self.obstacle:
                log.info("run events are stored again")
            self.obstacle, failures = "", 0
            if self._closing and not any(self._has_news(p) for p in self._pending.values()):
                return

    async def close(self, task: asyncio.Task[None]) -> None:
        """Stores what is left, within a bound."""
        self._closing = True
        self._wake.set()
        self._hurry.set()
        _, late = await asyncio.wait({task}, timeout=_CLOSE_SECONDS)
        if late:
            log.error("the last events of runs were not stored", problem=self.obstacle)
            task.cancel()
            await asyncio.wait({task})

    async def _write(self) -> None:
        await self._write_starts()
        for pending in list(self._pending.values()):
            if pending.finished is not None:
                try:
                    await self._write_end(pending)
                except StoreProblem:
                    raise
                except Exception:
                    # One run that cannot be stored must not keep the others from it.
                    log.exception("the end of a run cannot be stored", run=pending.run.id)
                    self._drop(pending)
        open_runs = [p for p in self._pending.values() if p.events and not p.finished]
        try:
            await self._append(open_runs)
        except Conflict:
            for pending in open_runs:  # to find the one whose log cannot go on
                try:
                    await self._append([pending])
                except Conflict:
                    self._give_up(pending)

    async def _write_starts(self) -> None:
        started = {
            id: pending.started_at
            for id, pending in self._pending.items()
            if pending.started_at is not None
        }
        await self._store.runs.mark_started(started)
        for id in started:
            self._pending[id].started_at = None

    async def _append(self, open_runs: list[_Pending]) -> None:
        taken = [(pending, len(pending.events)) for pending in open_runs if pending.events]
        batches = [self._batch(pending.run, pending.events[:count]) for pending, count in taken]
        await self._store.runs.append_events(batches)
        for pending, count in taken:
            self._forget_events(pending, count)

    async def _write_end(self, pending: _Pending) -> None:
        assert pending.finished is not None
        assert isinstance(pending.finished.event, RunFinished)
        batches = [self._batch(pending.run, pending.events)] if pending.events else []
        try:
            await self._store.runs.finish(
                pending.run.id,
                pending.finished.event,
                pending.finished.at,
                usage=pending.usage,
                first_token_at=pending.first_token_at,
                events=batches,
            )
        except Conflict:
            # A batch whose commit was reported as failed was stored after all; the end matters.
            if pending.broken:
                raise
            self._give_up(pending)
            await self._write_end(pending)
            return
        self._drop(pending)

    def _drop(self, pending: _Pending) -> None:
        self._forget_events(pending, len(pending.events))
        del self._pending[pending.run.id]
        pending.stored.set()

    def _batch(self, run: Run, events: list[Recorded]) -> EventBatch:
        first = events[0].number
        sealed = self._vault.seal(many_to_json(events), events_context(run, first))
        return EventBatch(
            run_id=run.id, first_number=first, last_number=events[-1].number, sealed=sealed
        )

    def _forget_events(self, pending: _Pending, count: int) -> None:
        self._held_bytes -= pending.bytes
        del pending.events[:count]
        pending.bytes = sum(len(recorded_to_json(event)) for event in pending.events)
        self._held_bytes += pending.bytes

    def _give_up(self, pending: _Pending) -> None:
        self._metrics.log_dropped.inc(len(pending.events))
        log.error("the log of a run is incomplete", run=pending.run.id)
        pending.broken = True
        self._forget_events(pending, len(pending.events))

    def _has_news(self, pending: _Pending) -> bool:
        return bool(pending.events or pending.finished or pending.started_at)
