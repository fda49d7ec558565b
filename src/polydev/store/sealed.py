"""Every sealed value there is, for a rotation of the master key.

A rotation goes through `every()`, reseals and `replace()`s one value at a time. Each replacement
stands by itself, so it may be interrupted anywhere and begun again. It compares the value with
the one that was read, so it never undoes what someone wrote in between: then it says False, and
the newer value was sealed with the newer key already.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, select, tuple_, update

from polydev.models.accounts import Connection
from polydev.models.seals import (
    CHECK_CONTEXT,
    SealContext,
    SealPurpose,
    credential_context,
    events_context,
    proxy_context,
    request_context,
)
from polydev.store import connections as of_connections
from polydev.store import runs as of_runs
from polydev.store.database import Database
from polydev.store.facts import VAULT_CHECK
from polydev.store.tables import connections, facts, run_events, runs

# A request may have tens of MB, a batch of events a few KB.
_REQUESTS_AT_ONCE = 4
_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedValue:
    """key: which row holds it, as `replace` needs it."""

    context: SealContext
    key: tuple[str | int, ...]
    sealed: bytes = field(repr=False)


class SealedValues:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def every(self) -> AsyncIterator[SealedValue]:
        """In batches, so that memory stays constant; no transaction is open in between.

        The check value comes last: with it under the first key, everything is.
        """
        parts = (
            self._credentials(), self._proxies(), self._requests(), self._events(), self._check()
        )  # fmt: skip
        for values in parts:
            async for value in values:
                yield value

    async def replace(self, value: SealedValue, sealed: bytes) -> bool:
        """Whether it was still what `every()` gave."""
        if not sealed:
            raise ValueError("a sealed value is never empty")
        statement: Any
        match value.context.purpose:
            case SealPurpose.CREDENTIAL:
                statement = (
                    update(connections)
                    .where(
                        connections.c.id == value.key[0],
                        connections.c.credential == value.sealed,
                    )
                    .values(credential=sealed)
                )
            case SealPurpose.PROXY:
                statement = (
                    update(connections)
                    .where(
                        connections.c.id == value.key[0],
                        connections.c.own_proxy == value.sealed,
                    )
                    .values(own_proxy=sealed)
                )
            case SealPurpose.RUN_REQUEST:
                statement = (
                    update(runs)
                    .where(runs.c.id == value.key[0], runs.c.request == value.sealed)
                    .values(request=sealed)
                )
            case SealPurpose.RUN_EVENTS:
                statement = (
                    update(run_events)
                    .where(
                        run_events.c.run_id == value.key[0],
                        run_events.c.first_number == value.key[1],
                        run_events.c.sealed == value.sealed,
                    )
                    .values(sealed=sealed)
                )
            case SealPurpose.CHECK:
                statement = (
                    update(facts)
                    .where(facts.c.name == value.key[0], facts.c.value == value.sealed)
                    .values(value=sealed)
                )
        # The old key is dropped afterwards: what was resealed must be on the disk by then. The
        # check value is written last, and a durable commit takes the earlier ones with it.
        durable = value.context.purpose in (
            SealPurpose.CREDENTIAL, SealPurpose.PROXY, SealPurpose.CHECK
        )  # fmt: skip
        async with self._database.write(durable=durable) as connection:
            return (await connection.execute(statement)).rowcount == 1

    def _credentials(self) -> AsyncIterator[SealedValue]:
        return self._of_connections(connections.c.credential, credential_context)

    def _proxies(self) -> AsyncIterator[SealedValue]:
        return self._of_connections(connections.c.own_proxy, proxy_context)

    async def _of_connections(
        self, column: Column[Any], context: Callable[[Connection], SealContext]
    ) -> AsyncIterator[SealedValue]:
        statement = (
            select(*of_connections.COLUMNS, column.label("sealed"))
            .where(column.is_not(None))
            .order_by(connections.c.id)
            .limit(_AT_ONCE)
        )
        after: str | None = None
        while rows := await self._page(statement, connections.c.id, after):
            for fields in rows:
                sealed = fields.pop("sealed")
                connection = of_connections.connection_from(fields)
                yield SealedValue(context=context(connection), key=(connection.id,), sealed=sealed)
                after = connection.id

    async def _requests(self) -> AsyncIterator[SealedValue]:
        statement = (
            select(*of_runs.COLUMNS, runs.c.request.label("sealed"))
            .where(runs.c.request.is_not(None))
            .order_by(runs.c.id)
            .limit(_REQUESTS_AT_ONCE)
        )
        after: str | None = None
        while rows := await self._page(statement, runs.c.id, after):
            for fields in rows:
                sealed = fields.pop("sealed")
                run = of_runs.run_from(fields)
                yield SealedValue(context=request_context(run), key=(run.id,), sealed=sealed)
                after = run.id

    async def _events(self) -> AsyncIterator[SealedValue]:
        place = tuple_(run_events.c.run_id, run_events.c.first_number)
        statement = (
            select(*of_runs.COLUMNS, run_events.c.first_number, run_events.c.sealed)
            .join(runs, runs.c.id == run_events.c.run_id)
            .order_by(run_events.c.run_id, run_events.c.first_number)
            .limit(_AT_ONCE)
        )
        after: tuple[str, int] | None = None
        while rows := await self._page(statement, place, after):
            for fields in rows:
                sealed, number = fields.pop("sealed"), fields.pop("first_number")
                run = of_runs.run_from(fields)
                yield SealedValue(
                    context=events_context(run, number), key=(run.id, number), sealed=sealed
                )
                after = (run.id, number)

    async def _check(self) -> AsyncIterator[SealedValue]:
        statement = select(facts.c.value.label("sealed")).where(facts.c.name == VAULT_CHECK)
        for fields in await self._page(statement, facts.c.name, None):
            yield SealedValue(context=CHECK_CONTEXT, key=(VAULT_CHECK,), sealed=fields["sealed"])

    async def _page(
        self, statement: Select[Any], place: ColumnElement[Any], after: Any
    ) -> list[dict[str, Any]]:
        if after is not None:
            statement = statement.where(place > after)
        async with self._database.read() as connection:
            return [dict(row) for row in (await connection.execute(statement)).mappings()]
