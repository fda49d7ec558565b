"""The store over each database, and things to put into it."""

import datetime as dt
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polydev.config import StoreSettings
from polydev.models.accounts import Connection, ConnectionState, Ownership, User
from polydev.models.ids import new_id
from polydev.models.runs import Run, RunState, Surface
from polydev.store import Store
from tests.store.postgres import postgres_cluster, postgres_url

__all__ = ["postgres_cluster", "postgres_url"]

NOW = dt.datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> StoreSettings:
    if request.param == "sqlite":
        return StoreSettings()
    return StoreSettings(url=request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(settings: StoreSettings, tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(settings, tmp_path) as opened:
        yield opened


@pytest.fixture
async def user(store: Store) -> User:
    return await store.users.add("ada")


@pytest.fixture
async def connection(store: Store, user: User) -> Connection:
    return await store.connections.add(connection_of(user), b"sealed 1")


def connection_of(user: User, provider: str = "claude") -> Connection:
    return Connection(
        id=new_id("con"),
        user_id=user.id,
        provider=provider,
        state=ConnectionState.ACTIVE,
        ownership=Ownership.TAKE,
        identity=str(uuid.uuid4()),
        created_at=NOW,
        account="ada@example.test",
        expires_at=NOW + dt.timedelta(hours=8),
    )


def run_on(connection: Connection) -> Run:
    return Run(
        id=new_id("run"),
        user_id=connection.user_id,
        connection_id=connection.id,
        provider=connection.provider,
        model="some-model",
        surface=Surface.CHAT,
        state=RunState.QUEUED,
        created_at=NOW,
    )
