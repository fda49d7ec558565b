"""Small values by name that belong to the database as a whole."""

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from polydev.store.database import Database
from polydev.store.tables import facts

VAULT_CHECK = "vault_check"


class Facts:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> bytes | None:
        async with self._database.read() as connection:
            statement = select(facts.c.value).where(facts.c.name == name)
            value: bytes | None = await connection.scalar(statement)
        return value

    async def keep(self, name: str, value: bytes) -> bytes:
        """The value that is kept: this one, unless there was one already."""
        make = postgresql.insert if self._database.is_postgresql else sqlite.insert
        async with self._database.write(durable=True) as connection:
            await connection.execute(
                make(facts).values(name=name, value=value).on_conflict_do_nothing()
            )
            statement = select(facts.c.value).where(facts.c.name == name)
            kept: bytes = (await connection.execute(statement)).scalar_one()
        return kept
