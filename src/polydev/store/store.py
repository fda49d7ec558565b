"""All of the store behind one door.

    async with Store.open(settings.store, settings.data) as store:
        user = await store.users.add("ada")

Opening connects and migrates; closing waits for what is being written. Any failure of the
database is a StoreProblem and has changed nothing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from polydev.config import StoreSettings
from polydev.models.notices import Publish, publish_nothing
from polydev.store.accounts import Keys, Users
from polydev.store.connections import Connections
from polydev.store.database import Database
from polydev.store.facts import Facts
from polydev.store.leases import Leases
from polydev.store.logins import Logins
from polydev.store.runs import Runs
from polydev.store.sealed import SealedValues
from polydev.store.sign_ins import SignIns
from polydev.store.windows import Windows


class Store:
    def __init__(self, database: Database, publish: Publish = publish_nothing) -> None:
        self.database = database
        self.users = Users(database)
        self.keys = Keys(database, publish)
        self.connections = Connections(database, publish)
        self.windows = Windows(database)
        self.runs = Runs(database)
        self.logins = Logins(database, publish)
        self.sign_ins = SignIns(database, publish)
        self.sealed = SealedValues(database)
        self.facts = Facts(database)
        self.leases = Leases(database)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: StoreSettings,
        data: Path,
        *,
        exclusive: bool = True,
        publish: Publish = publish_nothing,
    ) -> AsyncIterator["Store"]:
        """exclusive: alone on a PostgreSQL database; see `Database.open`.

        publish: told of what is written that people look at, after it is.
        """
        async with Database.open(settings, data, exclusive=exclusive) as database:
            yield cls(database, publish)

    async def ping(self) -> None:
        """Raises StoreProblem when the database does not answer."""
        await self.database.ping()
