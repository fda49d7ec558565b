"""What the providers last said about each connection's windows."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from polydev.events import WindowObserved
from polydev.models.windows import Window
from polydev.store.database import Database
from polydev.store.tables import windows


class Windows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def observe(
        self, connection_id: str, window: WindowObserved, observed_at: datetime
    ) -> bool:
        """Whether it was stored: an older observation never replaces a newer one."""
        make = postgresql.insert if self._database.is_postgresql else sqlite.insert
        values = {
            "used_fraction": window.used_fraction,
            "resets_at": window.resets_at,
            "source": window.source,
            "observed_at": observed_at,
        }
        given = make(windows).values(connection_id=connection_id, kind=window.kind, **values)
        statement = given.on_conflict_do_update(
            index_elements=[windows.c.connection_id, windows.c.kind],
            set_={name: given.excluded[name] for name in values},
            where=given.excluded.observed_at >= windows.c.observed_at,
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def of_connection(self, connection_id: str) -> tuple[Window, ...]:
        statement = (
            select(windows).where(windows.c.connection_id == connection_id).order_by(windows.c.kind)
        )
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
            return tuple(Window(**row) for row in rows.mappings())
