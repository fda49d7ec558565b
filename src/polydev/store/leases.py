"""What only one gateway may do at a time, for a bounded time.

A lease that its holder does not give back is over by itself. Each time that it is taken its token
is higher, so that a holder who wakes up late gives back nothing that is another's by now.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import or_, update
from sqlalchemy.dialects import postgresql, sqlite

from polydev.store.database import Database
from polydev.store.tables import leases


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    name: str
    holder: str
    token: int
    expires_at: datetime


class Leases:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, name: str, holder: str, seconds: float) -> Lease | None:
        """None while somebody else holds it. Taken again by its holder it is another lease."""
        now = datetime.now(UTC)
        make: Any = postgresql.insert if self._database.is_postgresql else sqlite.insert
        given = make(leases).values(
            name=name, holder=holder, token=1, expires_at=now + timedelta(seconds=seconds)
        )
        statement = given.on_conflict_do_update(
            index_elements=[leases.c.name],
            set_={
                "holder": given.excluded.holder,
                "token": leases.c.token + 1,
                "expires_at": given.excluded.expires_at,
            },
            where=or_(leases.c.expires_at <= now, leases.c.holder == holder),
        ).returning(leases)
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).mappings().first()
        return None if row is None else Lease(**row)

    async def give_back(self, lease: Lease) -> None:
        """Does nothing when it is another's by now. Its token goes on counting."""
        statement = (
            update(leases)
            .where(leases.c.name == lease.name, leases.c.token == lease.token)
            .values(expires_at=datetime.now(UTC))
        )
        async with self._database.write() as connection:
            await connection.execute(statement)
