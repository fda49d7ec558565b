"""A real store and vault, and runs to put into them."""

import base64
import datetime as dt
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from polydev.config import StoreSettings
from polydev.models.accounts import Connection, ConnectionState, Ownership
from polydev.models.ids import new_id
from polydev.models.runs import Run, RunState, Surface
from polydev.store import Store
from polydev.vault import Vault, load_keyring


@pytest.fixture
async def store(anyio_backend: object, tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(StoreSettings(), tmp_path) as opened:
        yield opened


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    key = SecretStr(base64.b64encode(os.urandom(32)).decode())
    return Vault(load_keyring(key, tmp_path, may_create=True))


@pytest.fixture
async def connection(store: Store) -> Connection:
    user = await store.users.add("ada")
    made = Connection(
        id=new_id("con"),
        user_id=user.id,
        provider="claude",
        state=ConnectionState.ACTIVE,
        ownership=Ownership.TAKE,
        identity=str(uuid.uuid4()),
        created_at=dt.datetime.now(dt.UTC),
    )
    return await store.connections.add(made, b"sealed")


def run_on(connection: Connection) -> Run:
    return Run(
        id=new_id("run"),
        user_id=connection.user_id,
        connection_id=connection.id,
        provider=connection.provider,
        model="some-model",
        surface=Surface.NATIVE,
        state=RunState.QUEUED,
        created_at=dt.datetime.now(dt.UTC),
    )
