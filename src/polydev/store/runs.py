"""Records of runs, their sealed requests and their sealed events.

A state changes by one statement that names the states it may come from, so a run starts once and
ends once, whoever races. Event numbers start at 1 and have no gaps: a batch that does not follow
the last one is refused (Conflict) and nothing of its call is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from polydev.errors import Conflict, NotFound
from polydev.events import EndReason, RunFinished, UsageReported
from polydev.models.runs import RUN_TRANSITIONS, Run, RunState, Surface
from polydev.store.database import Database
from polydev.store.tables import run_events, runs
from polydev.store.together import Together

COLUMNS = tuple(
    column for column in runs.columns if column.name not in ("request", "texts_pruned_at")
)
_PRUNE_BATCH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class EventBatch:
    """Consecutive events of one run, sealed together."""

    run_id: str
    first_number: int
    last_number: int
    sealed: bytes = field(repr=False)


class Runs:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._adding = Together(self._add_all)

    async def add(self, run: Run, request: bytes | None = None) -> None:
        """request: sealed; None when no texts are kept."""
        await self._adding.add(asdict(run) | {"request": request})

    async def get(self, id: str) -> Run | None:
        async with self._database.read() as connection:
            rows = await connection.execute(select(*COLUMNS).where(runs.c.id == id))
            row = rows.mappings().first()
        return None if row is None else run_from(row)

    async def request(self, id: str) -> bytes | None:
        """The sealed request; None when none was kept, or it was pruned."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(runs.c.request).where(runs.c.id == id))).first()
        return None if row is None else row[0]

    async def of_user(
        self, user_id: str, *, limit: int = 50, before: str | None = None
    ) -> tuple[Run, ...]:
        """Newest first; before: the id of the last run of the previous page."""
        statement = select(*COLUMNS).where(runs.c.user_id == user_id)
        if before is not None:
            statement = statement.where(runs.c.id < before)
        return await self._all(statement.order_by(runs.c.id.desc()).limit(limit))

    async def unfinished(self) -> tuple[Run, ...]:
        """What a gateway that was killed left behind, oldest first."""
        states = [state.value for state in RunState if not state.is_final]
        return await self._all(select(*COLUMNS).where(runs.c.state.in_(states)).order_by(runs.c.id))

    async def mark_started(self, started: Mapping[str, datetime]) -> None:
        """By their ids; one that had started or ended already stays as it is."""
        if not started:
            return
        # Many rows by one statement: in such a one a list of states cannot be a parameter.
        waiting = or_(*(runs.c.state == state for state in _before(RunState.RUNNING)))
        statement = (
            update(runs)
            .where(runs.c.id == bindparam("run_id"), waiting)
            .values(state=RunState.RUNNING.value, started_at=bindparam("at"))
        )
        rows = [{"run_id": id, "at": at} for id, at in started.items()]
        async with self._database.write() as connection:
            await connection.execute(statement, rows)

    async def finish(
        self,
        id: str,
        finished: RunFinished,
        at: datetime,
        *,
        usage: UsageReported | None = None,
        first_token_at: datetime | None = None,
        events: Sequence[EventBatch] = (),
    ) -> bool:
        """False, and nothing is written, when it had ended already.

        events: the last ones, stored together with the end or not at all.
        """
        values: dict[str, Any] = {
            "finished_at": at,
            "reason": finished.reason.value,
            "message": finished.message,
            "retry_at": finished.retry_at,
            "usage": None if usage is None else asdict(usage),
        }
        if first_token_at is not None:
            values["first_token_at"] = func.coalesce(runs.c.first_token_at, first_token_at)
        return await self._move(id, RunState(finished.outcome.value), values, events)

    async def append_events(self, batches: Sequence[EventBatch]) -> None:
        """Of any number of runs, in one transaction; each run's batches in order.

        Raises Conflict for a gap or an overlap, NotFound for a run that does not exist.
        """
        if batches:
            async with self._database.write() as connection:
                await _append(connection, batches)

    async def events_after(
        self, run_id: str, number: int = 0, *, limit: int = 100
    ) -> tuple[EventBatch, ...]:
        """In order; the first batch may also hold `number` itself and what is before it."""
        statement = (
            select(run_events)
            .where(run_events.c.run_id == run_id, run_events.c.last_number > number)
            .order_by(run_events.c.first_number)
            .limit(limit)
        )
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
            return tuple(EventBatch(**row) for row in rows.mappings())

    async def last_event_number(self, run_id: str) -> int:
        """0 when no event is stored."""
        async with self._database.read() as connection:
            return (await _last_numbers(connection, {run_id})).get(run_id, 0)

    async def prune_texts(self, finished_before: datetime) -> int:
        """How many runs lost their request and events; their records stay."""
        pruned = 0
        while ids := await self._prune_some(finished_before):
            pruned += len(ids)
        return pruned

    async def _prune_some(self, finished_before: datetime) -> Sequence[str]:
        # In small transactions, so that a long backlog does not keep other writers waiting.
        due = (
            select(runs.c.id)
            .where(runs.c.texts_pruned_at.is_(None), runs.c.finished_at < finished_before)
            .limit(_PRUNE_BATCH)
        )
        async with self._database.write() as connection:
            ids = (await connection.execute(due)).scalars().all()
            if ids:
                await connection.execute(delete(run_events).where(run_events.c.run_id.in_(ids)))
                await connection.execute(
                    update(runs)
                    .where(runs.c.id.in_(ids))
                    .values(request=None, texts_pruned_at=datetime.now(UTC))
                )
        return ids

    async def _move(
        self,
        id: str,
        state: RunState,
        values: Mapping[str, Any],
        events: Sequence[EventBatch] = (),
    ) -> bool:
        statement = (
            update(runs)
            .where(runs.c.id == id, runs.c.state.in_(_before(state)))
            .values(state=state.value, **values)
        )
        async with self._database.write() as connection:
            moved = (await connection.execute(statement)).rowcount == 1
            if moved and events:
                await _append(connection, events)
        if not moved and await self.get(id) is None:
            raise _unknown(id)
        return moved

    async def _add_all(self, rows: Sequence[Mapping[str, Any]]) -> None:
        async with self._database.write() as connection:
            await connection.execute(insert(runs), rows)

    async def _all(self, statement: Any) -> tuple[Run, ...]:
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
            return tuple(run_from(row) for row in rows.mappings())


def _before(state: RunState) -> list[str]:
    return [origin.value for origin, to in RUN_TRANSITIONS.items() if state in to]


async def _append(connection: AsyncConnection, batches: Sequence[EventBatch]) -> None:
    last = await _last_numbers(connection, {batch.run_id for batch in batches})
    for batch in batches:
        expected = last.get(batch.run_id, 0) + 1
        if batch.first_number != expected or batch.last_number < batch.first_number:
            raise Conflict(
                f"The next event of {batch.run_id} is {expected}, not "
                f"{batch.first_number} to {batch.last_number}; nothing was stored.",
                reason="event_number",
            )
        last[batch.run_id] = batch.last_number
    await connection.execute(insert(run_events), [asdict(batch) for batch in batches])


async def _last_numbers(connection: AsyncConnection, run_ids: set[str]) -> dict[str, int]:
    statement = (
        select(run_events.c.run_id, func.max(run_events.c.last_number))
        .where(run_events.c.run_id.in_(run_ids))
        .group_by(run_events.c.run_id)
    )
    return {row[0]: row[1] for row in await connection.execute(statement)}


def run_from(row: Mapping[Any, Any]) -> Run:
    fields = dict(row)
    fields["state"] = RunState(fields["state"])
    fields["surface"] = Surface(fields["surface"])
    fields["reason"] = None if fields["reason"] is None else EndReason(fields["reason"])
    fields["usage"] = None if fields["usage"] is None else UsageReported(**fields["usage"])
    return Run(**fields)


def _unknown(id: str) -> NotFound:
    return NotFound(f"There is no run {id}.", remedy="It may belong to another database.")
