"""Connections and their sealed credentials.

A credential is written only by `add` and `swap_credential`, durably. The swap is one statement
that compares the version, so of several writers who read the same version exactly one wins and
the others are told.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update

from polydev.errors import Conflict, NotFound
from polydev.models.accounts import (
    CONNECTION_TRANSITIONS,
    Connection,
    ConnectionState,
    Ownership,
)
from polydev.models.notices import Publish, Topic
from polydev.store.database import Database
from polydev.store.tables import connections

_SEALED = ("credential", "own_proxy")
COLUMNS = tuple(column for column in connections.columns if column.name not in _SEALED)


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedCredential:
    connection_id: str
    version: int
    sealed: bytes = field(repr=False)


class Connections:
    def __init__(self, database: Database, publish: Publish) -> None:
        self._database = database
        self._publish = publish

    async def add(
        self, connection: Connection, sealed: bytes, own_proxy: bytes | None = None
    ) -> Connection:
        """With its first credential; it then has version 1, whatever the record says."""
        _require(sealed)
        values = asdict(connection) | {"credential_version": 1, "credential": sealed}
        values["own_proxy"] = own_proxy
        statement = insert(connections).values(values).returning(*COLUMNS)
        async with self._database.write(durable=True) as database:
            row = (await database.execute(statement)).mappings().one()
        return self._changed(row)

    async def get(self, id: str) -> Connection | None:
        async with self._database.read() as database:
            rows = await database.execute(select(*COLUMNS).where(connections.c.id == id))
            row = rows.mappings().first()
        return None if row is None else connection_from(row)

    async def of_user(self, user_id: str, provider: str | None = None) -> tuple[Connection, ...]:
        """Oldest first, disconnected ones too."""
        statement = select(*COLUMNS).where(connections.c.user_id == user_id)
        if provider is not None:
            statement = statement.where(connections.c.provider == provider)
        return await self._all(statement)

    async def list(self) -> tuple[Connection, ...]:
        return await self._all(select(*COLUMNS))

    async def set_state(self, id: str, state: ConnectionState, reason: str = "") -> Connection:
        """Raises Conflict for a transition that is not legal, NotFound for no such connection.

        The same state again only changes the reason. A disconnected connection has no credential, and no proxy of its own.
        """
        origins = [
            origin.value
            for origin, targets in CONNECTION_TRANSITIONS.items()
            if state in targets or origin is state
        ]
        values: dict[str, Any] = {"state": state.value, "reason": reason}
        if state is ConnectionState.DISCONNECTED:
            values |= {"credential": None, "expires_at": None, "own_proxy": None}
        statement = (
            update(connections)
            .where(connections.c.id == id, connections.c.state.in_(origins))
            .values(values)
            .returning(*COLUMNS)
        )
        async with self._database.write(durable=True) as database:
            row = (await database.execute(statement)).mappings().one_or_none()
        if row is not None:
            return self._changed(row)
        present = await self.get(id)
        if present is None:
            raise _unknown(id)
        raise Conflict(
            f"The connection {id} is {present.state.value} and cannot become {state.value}.",
            remedy="Connect again: polydev connect",
        )

    async def update_facts(
        self,
        id: str,
        *,
        account: str | None = None,
        plan: str | None = None,
        checked_at: datetime | None = None,
    ) -> Connection:
        """None leaves a fact as it is."""
        facts = {"account": account, "plan": plan, "checked_at": checked_at}
        return await self._update(
            id, {name: value for name, value in facts.items() if value is not None}
        )

    async def credential(self, id: str) -> SealedCredential | None:
        """None when it is disconnected, or does not exist."""
        statement = select(connections.c.credential_version, connections.c.credential).where(
            connections.c.id == id, connections.c.credential.is_not(None)
        )
        async with self._database.read() as database:
            row = (await database.execute(statement)).first()
        if row is None:
            return None
        return SealedCredential(connection_id=id, version=row[0], sealed=row[1])

    async def own_proxy(self, id: str) -> bytes | None:
        """Sealed; None where it follows the setting for all."""
        statement = select(connections.c.own_proxy).where(connections.c.id == id)
        async with self._database.read() as database:
            sealed: bytes | None = await database.scalar(statement)
        return sealed

    async def set_proxy(self, id: str, shown: str | None, own: bytes | None) -> Connection:
        """Raises NotFound."""
        return await self._update(id, {"proxy": shown, "own_proxy": own}, durable=True)

    async def swap_credential(
        self,
        id: str,
        expected_version: int,
        sealed: bytes,
        *,
        expires_at: datetime | None,
        refreshed_at: datetime | None = None,
        account: str | None = None,
        plan: str | None = None,
    ) -> bool:
        """Whether the credential was still `expected_version` and is now this one, one higher.

        False as well for a connection that is disconnected or does not exist. `expires_at` is
        always set; None leaves the other facts as they are.
        """
        _require(sealed)
        facts = {"refreshed_at": refreshed_at, "account": account, "plan": plan}
        statement = (
            update(connections)
            .where(
                connections.c.id == id,
                connections.c.credential_version == expected_version,
                connections.c.state != ConnectionState.DISCONNECTED.value,
            )
            .values(
                credential=sealed,
                credential_version=expected_version + 1,
                expires_at=expires_at,
                **{name: value for name, value in facts.items() if value is not None},
            )
            .returning(*COLUMNS)
        )
        async with self._database.write(durable=True) as database:
            row = (await database.execute(statement)).mappings().one_or_none()
        if row is not None:
            self._changed(row)
        return row is not None

    def _changed(self, row: Mapping[Any, Any]) -> Connection:
        self._publish(row["user_id"], Topic.CONNECTIONS)
        return connection_from(row)

    async def _all(self, statement: Any) -> tuple[Connection, ...]:
        async with self._database.read() as database:
            rows = await database.execute(statement.order_by(connections.c.id))
            return tuple(connection_from(row) for row in rows.mappings())

    async def _update(
        self, id: str, values: Mapping[str, Any], *, durable: bool = False
    ) -> Connection:
        row: Mapping[Any, Any] | None = None
        if values:
            statement = (
                update(connections)
                .where(connections.c.id == id)
                .values(**values)
                .returning(*COLUMNS)
            )
            async with self._database.write(durable=durable) as database:
                row = (await database.execute(statement)).mappings().one_or_none()
            if row is not None:
                return self._changed(row)
        present = await self.get(id)
        if present is None:
            raise _unknown(id)
        return present


def connection_from(row: Mapping[Any, Any]) -> Connection:
    fields = dict(row)
    fields["state"] = ConnectionState(fields["state"])
    fields["ownership"] = Ownership(fields["ownership"])
    return Connection(**fields)


def _require(sealed: bytes) -> None:
    if not sealed:
        raise ValueError("an empty credential never replaces a good one")


def _unknown(id: str) -> NotFound:
    return NotFound(f"There is no connection {id}.", remedy="See: polydev connections")
