"""Browsers that are signed in. Of what they show only its hash is kept."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select

from polydev.models.accounts import User
from polydev.models.notices import Publish, Topic
from polydev.store.accounts import user_from
from polydev.store.database import Database
from polydev.store.tables import sign_ins, users


class SignIns:
    def __init__(self, database: Database, publish: Publish) -> None:
        self._database = database
        self._publish = publish

    async def add(
        self, *, user_id: str, hash: str, created_at: datetime, expires_at: datetime
    ) -> None:
        """Those that have expired by `created_at` are removed on the way."""
        async with self._database.write() as connection:
            await connection.execute(delete(sign_ins).where(sign_ins.c.expires_at <= created_at))
            await connection.execute(
                insert(sign_ins).values(
                    hash=hash, user_id=user_id, created_at=created_at, expires_at=expires_at
                )
            )

    async def user(self, hash: str, now: datetime) -> User | None:
        """Whose it is, disabled or not; None when it is unknown or expired."""
        statement = (
            select(users)
            .join(sign_ins, sign_ins.c.user_id == users.c.id)
            .where(sign_ins.c.hash == hash, sign_ins.c.expires_at > now)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().first()
        return None if row is None else user_from(row)

    async def remove(self, hash: str) -> None:
        await self._remove(sign_ins.c.hash == hash)

    async def remove_of(self, user_id: str) -> None:
        """All of a person's."""
        await self._remove(sign_ins.c.user_id == user_id)

    async def _remove(self, condition: Any) -> None:
        statement = delete(sign_ins).where(condition).returning(sign_ins.c.user_id)
        async with self._database.write(durable=True) as connection:
            owners = set((await connection.execute(statement)).scalars())
        for user_id in owners:
            self._publish(user_id, Topic.SIGN_INS)
