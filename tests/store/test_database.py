import asyncio
import os
import sqlite3
import stat
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import text

from polydev.config import StoreSettings
from polydev.errors import SetupProblem, StoreProblem
from polydev.models.accounts import Connection
from polydev.models.runs import Run
from polydev.store import Store
from polydev.store.database import DATABASE_FILE, Database
from polydev.store.migrate import DIRECTORY, HEAD
from polydev.store.tables import metadata
from tests.store.conftest import run_on
from tests.store.postgres import Cluster

pytestmark = pytest.mark.anyio

SQLITE = StoreSettings()


async def test_migrations_make_the_tables_that_the_code_uses(store: Store) -> None:
    def differences(connection: SyncConnection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    async with store.database.read() as connection:
        assert await connection.run_sync(differences) == []


def test_head_is_the_newest_revision() -> None:
    assert ScriptDirectory(str(DIRECTORY)).get_current_head() == HEAD


async def test_opening_again_keeps_what_is_there(settings: StoreSettings, tmp_path: Path) -> None:
    async with Store.open(settings, tmp_path) as store:
        user = await store.users.add("ada")
    async with Store.open(settings, tmp_path) as store:
        assert await store.users.list() == (user,)


async def test_several_that_start_at_once_migrate_once(
    settings: StoreSettings, tmp_path: Path
) -> None:
    async def start() -> None:
        async with Store.open(settings, tmp_path, exclusive=False) as store:
            assert await store.users.list() == ()

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(start())


async def test_a_newer_database_is_left_alone(settings: StoreSettings, tmp_path: Path) -> None:
    async with Store.open(settings, tmp_path) as store:
        user = await store.users.add("ada")
        await set_revision(store, "r9999")
        with pytest.raises(StoreProblem, match=r"newer polydev.*r9999") as caught:
            async with Store.open(settings, tmp_path, exclusive=False):
                pass
        assert caught.value.reason == "newer_schema"
        await set_revision(store, HEAD)
    async with Store.open(settings, tmp_path) as store:
        assert await store.users.list() == (user,)


async def set_revision(store: Store, revision: str) -> None:
    async with store.database.write() as connection:
        statement = text("UPDATE alembic_version SET version_num = :revision")
        await connection.execute(statement, {"revision": revision})


async def test_a_value_kept_under_a_name_stays(store: Store) -> None:
    assert await store.facts.get("vault_check") is None
    kept = await asyncio.gather(*(store.facts.keep("vault_check", bytes([n])) for n in range(5)))
    assert len(set(kept)) == 1
    assert await store.facts.get("vault_check") == kept[0]


async def test_a_cancelled_write_leaves_the_store_usable(
    store: Store, connection: Connection
) -> None:
    seen: set[tuple[bool, bool]] = set()
    for steps in range(60):
        cancelled = run_on(connection)
        writing = asyncio.create_task(store.runs.add(cancelled, b"x" * 100_000))
        for _ in range(steps):
            # One turn of the loop, or the time that a statement takes.
            await (store.ping() if steps % 2 else asyncio.sleep(0))
        came_too_late = writing.done()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        stored = await store.runs.get(cancelled.id) is not None
        seen.add((came_too_late, stored))
    assert (True, False) not in seen
    assert {True, False} == {stored for _, stored in seen}
    run = run_on(connection)
    await store.runs.add(run)
    assert await store.runs.get(run.id) == run
    await store.ping()


async def test_many_callers_at_once_all_get_their_turn(
    store: Store, connection: Connection
) -> None:
    runs = [run_on(connection) for _ in range(200)]

    async def work(run: Run) -> bool:
        await store.runs.add(run)
        return await store.runs.get(run.id) == run

    assert all(await asyncio.gather(*(work(run) for run in runs)))


async def test_a_full_disk_is_named_and_writing_goes_on_after_it(tmp_path: Path) -> None:
    async with Store.open(SQLITE, tmp_path) as store:
        user = await store.users.add("ada")

        async def limit_pages(count: str) -> None:
            async with store.database.read() as connection:
                await connection.exec_driver_sql(f"PRAGMA max_page_count = {count}")

        await limit_pages("1")  # SQLite takes the present size when it is larger
        with pytest.raises(StoreProblem, match="full") as caught:
            await store.facts.keep("large", os.urandom(1_000_000))
        assert caught.value.reason == "disk_full"
        assert await store.facts.get("large") is None
        await limit_pages("1000000")
        await store.facts.keep("large", b"now")
        assert await store.users.list() == (user,)


async def test_another_process_that_keeps_the_database_locked_is_named(tmp_path: Path) -> None:
    async with Database.open(SQLITE, tmp_path, wait_seconds=0.05) as database:
        other = sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreProblem, match="busy") as caught:
            async with database.write():
                pass
        other.execute("ROLLBACK")
        other.close()
        assert caught.value.reason == "busy"
        async with database.write():
            pass


async def test_a_writer_that_does_not_end_keeps_others_waiting_only_so_long(
    tmp_path: Path,
) -> None:
    async with Database.open(SQLITE, tmp_path, wait_seconds=0.05) as database:
        async with database.write():
            with pytest.raises(StoreProblem, match="busy"):
                async with database.write():
                    pass


async def test_only_credentials_and_their_like_wait_for_the_disk(tmp_path: Path) -> None:
    async with Database.open(SQLITE, tmp_path) as database:
        for durable, level in ((True, 2), (False, 1), (True, 2)):
            async with database.write(durable=durable) as connection:
                assert await connection.scalar(text("PRAGMA synchronous")) == level


async def test_sqlite_is_in_wal_mode_and_for_its_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with Store.open(SQLITE, data) as store:
        await store.users.add("ada")
        async with store.database.read() as connection:
            assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert await connection.scalar(text("PRAGMA foreign_keys")) == 1
        for file in data.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"something else " * 1000)
    with pytest.raises(StoreProblem, match="damaged") as caught:
        async with Store.open(SQLITE, tmp_path):
            pass
    assert caught.value.reason == "damaged"


async def test_a_place_that_cannot_hold_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreProblem, match="cannot be made"):
        async with Store.open(SQLITE, tmp_path / "file"):
            pass


@pytest.mark.parametrize(
    "url",
    ["nonsense", "mysql://hunter2@host/name", "sqlite://", "sqlite:///:memory:"],
)
async def test_a_url_that_cannot_be_used_is_refused_without_being_shown(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(SetupProblem) as caught:
        async with Store.open(StoreSettings(url=url), tmp_path):
            pass
    assert "hunter2" not in str(caught.value)


async def test_a_relative_path_of_sqlite_is_in_the_data_directory(tmp_path: Path) -> None:
    async with Store.open(StoreSettings(url="sqlite:///other.db"), tmp_path) as store:
        await store.ping()
    assert (tmp_path / "other.db").is_file()


async def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://polydev:hunter2@/name?host={tmp_path}"
    with pytest.raises(StoreProblem, match="cannot be reached") as caught:
        async with Store.open(StoreSettings(url=url), tmp_path):
            pass
    assert caught.value.reason == "unreachable"
    assert "hunter2" not in str(caught.value)


async def test_a_database_that_does_not_exist_is_named(
    postgres_cluster: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(StoreProblem, match="none_such"):
        async with Store.open(StoreSettings(url=postgres_cluster.url("none_such")), tmp_path):
            pass


async def test_connections_that_the_server_closed_are_replaced(
    postgres_url: str, tmp_path: Path
) -> None:
    async with Store.open(StoreSettings(url=postgres_url), tmp_path) as store:
        user = await store.users.add("ada")
        async with Store.open(StoreSettings(url=postgres_url), tmp_path, exclusive=False) as other:
            async with other.database.write() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
        assert await store.users.list() == (user,)


async def test_one_at_a_time_holds_a_postgresql_database(postgres_url: str, tmp_path: Path) -> None:
    settings = StoreSettings(url=postgres_url)
    async with Store.open(settings, tmp_path / "first") as store:
        user = await store.users.add("ada")
        with pytest.raises(SetupProblem) as caught:
            async with Store.open(settings, tmp_path / "second"):
                pass
        assert caught.value.reason == "database_in_use"
        async with Database.open_as_it_is(settings, tmp_path / "second") as database:
            assert await database.revision() == HEAD
    async with Store.open(settings, tmp_path / "second") as store:
        assert await store.users.list() == (user,)


async def test_a_killed_holder_lets_go_of_a_postgresql_database(
    postgres_url: str, tmp_path: Path
) -> None:
    settings = StoreSettings(url=postgres_url)
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDER, postgres_url, tmp_path, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        async with asyncio.timeout(20):
            assert await holder.stdout.readline() == b"held\n"
        with pytest.raises(SetupProblem):
            async with Store.open(settings, tmp_path):
                pass
    finally:
        holder.kill()
        await holder.wait()
    async with asyncio.timeout(10):
        while not await _opens(settings, tmp_path):
            await asyncio.sleep(0.05)


_HOLDER = """
import asyncio, pathlib, sys
from polydev.config import StoreSettings
from polydev.store import Store

async def hold():
    async with Store.open(StoreSettings(url=sys.argv[1]), pathlib.Path(sys.argv[2])):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


async def _opens(settings: StoreSettings, data: Path) -> bool:
    try:
        async with Store.open(settings, data):
            return True
    except SetupProblem:
        return False


async def test_a_broken_statement_never_shows_what_was_to_be_stored(
    store: Store, connection: Connection
) -> None:
    with pytest.raises(StoreProblem) as caught:
        async with store.database.write() as database:
            await database.execute(
                text("INSERT INTO nowhere VALUES (:secret)"), {"secret": "sealed hunter2"}
            )
    causes = [caught.value, caught.value.__cause__]
    assert all("hunter2" not in f"{cause!s}{cause!r}" for cause in causes)
