"""Users and their API keys. Of a key only its hash is kept."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select, update

from polydev.errors import Conflict, NotFound
from polydev.models.accounts import ApiKey, User, UserState
from polydev.models.ids import new_id
from polydev.models.notices import Publish, Topic
from polydev.store.database import Database
from polydev.store.tables import api_keys, users

_KEY_COLUMNS = tuple(column for column in api_keys.columns if column.name != "hash")
# Both tables have id, name and created_at.
_OWNER_COLUMNS = tuple(column.label(f"user__{column.name}") for column in users.columns)


class Users:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, name: str) -> User:
        """Raises Conflict when the name is taken."""
        user = User(
            id=new_id("usr"), name=name, state=UserState.ACTIVE, created_at=datetime.now(UTC)
        )
        try:
            async with self._database.write(durable=True) as connection:
                await connection.execute(
                    insert(users).values(
                        id=user.id, name=name, state=user.state.value, created_at=user.created_at
                    )
                )
        except Conflict as error:
            raise Conflict(
                f"There is a user {name!r} already.", remedy="Choose another name."
            ) from error
        return user

    async def get(self, id: str) -> User | None:
        return await self._one(users.c.id == id)

    async def by_name(self, name: str) -> User | None:
        return await self._one(users.c.name == name)

    async def list(self) -> tuple[User, ...]:
        async with self._database.read() as connection:
            rows = await connection.execute(select(users).order_by(users.c.id))
            return tuple(user_from(row) for row in rows.mappings())

    async def set_state(self, id: str, state: UserState) -> User:
        """Disabled or active again; raises NotFound."""
        statement = update(users).where(users.c.id == id).values(state=state.value).returning(users)
        async with self._database.write(durable=True) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"There is no user {id}.", remedy="See: polydev users list")
        return user_from(row)

    async def _one(self, condition: Any) -> User | None:
        async with self._database.read() as connection:
            row = (await connection.execute(select(users).where(condition))).mappings().first()
        return None if row is None else user_from(row)


class Keys:
    def __init__(self, database: Database, publish: Publish) -> None:
        self._database = database
        self._publish = publish

    async def add(
        self,
        *,
        user_id: str,
        name: str,
        prefix: str,
        hash: str,
        requests_per_minute: int,
        concurrent_runs: int,
    ) -> ApiKey:
        """hash: hex SHA-256 of the key, which is random enough to need no slower one."""
        key = ApiKey(
            id=new_id("key"),
            user_id=user_id,
            name=name,
            prefix=prefix,
            requests_per_minute=requests_per_minute,
            concurrent_runs=concurrent_runs,
            created_at=datetime.now(UTC),
        )
        async with self._database.write(durable=True) as connection:
            await connection.execute(
                insert(api_keys).values(
                    id=key.id,
                    user_id=user_id,
                    name=name,
                    prefix=prefix,
                    hash=hash,
                    requests_per_minute=requests_per_minute,
                    concurrent_runs=concurrent_runs,
                    created_at=key.created_at,
                )
            )
        self._publish(user_id, Topic.KEYS)
        return key

    async def get(self, id: str) -> ApiKey | None:
        async with self._database.read() as connection:
            rows = await connection.execute(select(*_KEY_COLUMNS).where(api_keys.c.id == id))
            row = rows.mappings().first()
        return None if row is None else ApiKey(**row)

    async def by_hash(self, hash: str) -> tuple[ApiKey, User] | None:
        """The key and its owner, revoked and disabled ones too: admission says which it is."""
        statement = (
            select(*_KEY_COLUMNS, *_OWNER_COLUMNS)
            .join(users, users.c.id == api_keys.c.user_id)
            .where(api_keys.c.hash == hash)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().first()
        if row is None:
            return None
        owner = {column.name: row[f"user__{column.name}"] for column in users.columns}
        return ApiKey(**{column.name: row[column.name] for column in _KEY_COLUMNS}), user_from(
            owner
        )

    async def list(self, user_id: str | None = None) -> tuple[ApiKey, ...]:
        statement = select(*_KEY_COLUMNS).order_by(api_keys.c.id)
        if user_id is not None:
            statement = statement.where(api_keys.c.user_id == user_id)
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
            return tuple(ApiKey(**row) for row in rows.mappings())

    async def revoke(self, id: str) -> ApiKey:
        """Revoking again changes nothing; raises NotFound."""
        statement = (
            update(api_keys)
            .where(api_keys.c.id == id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=datetime.now(UTC))
        )
        async with self._database.write(durable=True) as connection:
            await connection.execute(statement)
        key = await self.get(id)
        if key is None:
            raise NotFound(f"There is no key {id}.", remedy="See: polydev keys list")
        self._publish(key.user_id, Topic.KEYS)
        return key


def user_from(row: Mapping[Any, Any]) -> User:
    return User(
        id=row["id"],
        name=row["name"],
        state=UserState(row["state"]),
        created_at=row["created_at"],
    )
