"""Records of logins with their masked logs. A login's link and code are never among them.

A state changes by one statement that names the states it may come from, so a login ends once,
whoever races.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update

from polydev.errors import NotFound
from polydev.models.logins import (
    LOGIN_TRANSITIONS,
    Login,
    LoginLine,
    LoginMethod,
    LoginState,
    LoginTrouble,
)
from polydev.models.notices import Publish, Topic
from polydev.store.database import Database
from polydev.store.tables import logins

_COLUMNS = tuple(column for column in logins.columns if column.name != "log")
_NEVER_STORED = ("link", "user_code")


class Logins:
    def __init__(self, database: Database, publish: Publish) -> None:
        self._database = database
        self._publish = publish

    async def add(self, login: Login) -> None:
        async with self._database.write() as connection:
            await connection.execute(insert(logins).values(_values(login) | {"log": []}))
        self._publish(login.user_id, Topic.LOGINS)

    async def move(self, login: Login, log: Sequence[LoginLine]) -> bool:
        """Stores a login in its new state. False: it had ended, or skipped a state, already."""
        origins = [state.value for state, to in LOGIN_TRANSITIONS.items() if login.state in to]
        if not login.state.is_final:
            origins.append(login.state.value)  # the same state, with more to say
        lines = [{"at": line.at.isoformat(), "text": line.text} for line in log]
        statement = (
            update(logins)
            .where(logins.c.id == login.id, logins.c.state.in_(origins))
            .values(_values(login) | {"log": lines})
        )
        try:
            async with self._database.write() as connection:
                return (await connection.execute(statement)).rowcount == 1
        finally:
            # Told in any case: what is in memory has changed, also when it cannot be stored.
            self._publish(login.user_id, Topic.LOGINS)

    async def get(self, id: str) -> Login | None:
        async with self._database.read() as connection:
            rows = await connection.execute(select(*_COLUMNS).where(logins.c.id == id))
            row = rows.mappings().first()
        return None if row is None else _login(row)

    async def log(self, id: str) -> tuple[LoginLine, ...]:
        """Raises NotFound."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(logins.c.log).where(logins.c.id == id))).first()
        if row is None:
            raise NotFound(f"There is no login {id}.")
        return tuple(
            LoginLine(at=datetime.fromisoformat(line["at"]), text=line["text"]) for line in row[0]
        )

    async def of_user(self, user_id: str, *, limit: int = 50) -> tuple[Login, ...]:
        """Newest first."""
        return await self._all(
            select(*_COLUMNS)
            .where(logins.c.user_id == user_id)
            .order_by(logins.c.id.desc())
            .limit(limit)
        )

    async def unfinished(self) -> tuple[Login, ...]:
        """What a gateway that was killed left behind."""
        states = [state.value for state in LoginState if not state.is_final]
        return await self._all(select(*_COLUMNS).where(logins.c.state.in_(states)))

    async def _all(self, statement: Any) -> tuple[Login, ...]:
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
            return tuple(_login(row) for row in rows.mappings())


def _values(login: Login) -> dict[str, Any]:
    return {name: value for name, value in asdict(login).items() if name not in _NEVER_STORED}


def _login(row: Mapping[Any, Any]) -> Login:
    fields = dict(row)
    fields["method"] = LoginMethod(fields["method"])
    fields["state"] = LoginState(fields["state"])
    fields["reason"] = None if fields["reason"] is None else LoginTrouble(fields["reason"])
    return Login(**fields)
