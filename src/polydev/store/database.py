"""The engine and its transactions, the same over SQLite and PostgreSQL.

`read()` and `write()` each give a connection for one short piece of work; leaving `write()`
commits, an exception rolls back. On SQLite writers wait for one another here, in order, and a
commit survives a power loss for certain only where `durable=True` asks for it (a killed process
loses nothing either way); PostgreSQL commits are always durable.

Waits are bounded. Every error of a driver leaves as a StoreProblem (`reason`: `disk_full`,
`busy`, `unreachable`, `store_problem`), a broken uniqueness as Conflict, a reference to nothing
as NotFound.
"""

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, make_url, text
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from polydev.config import StoreSettings
from polydev.errors import Conflict, NotFound, PolydevError, SetupProblem, StoreProblem
from polydev.store.migrate import migrate, revision

DATABASE_FILE = "polydev.db"
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_WAIT_SECONDS = 10.0
_STATEMENT_SECONDS = 60.0
_POOL = 8
# Any number but the one of polydev.store.migrate.
_LOCK = 7_305_518_222
_WAL_LIMIT_BYTES = 64 * 2**20


class Database:
    """Use `Database.open`."""

    def __init__(self, engine: AsyncEngine, *, wait_seconds: float) -> None:
        self._engine = engine
        self._writers = {
            durable: engine.execution_options(polydev_write=True, polydev_durable=durable)
            for durable in (False, True)
        }
        self._wait_seconds = wait_seconds
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: StoreSettings,
        data: Path,
        *,
        wait_seconds: float = _WAIT_SECONDS,
        exclusive: bool = False,
    ) -> AsyncIterator["Database"]:
        """Connected and migrated.

        exclusive: a PostgreSQL database is held against others that open it so, for a gateway
            ends the runs that it finds unfinished. Raises SetupProblem (`database_in_use`). Held by
            one session: a restart of the server lets go of it. A SQLite file is held by the lock
            on its data directory.
        """
        url = _url(settings, data)
        engine = _engine(url, wait_seconds)
        database = cls(engine, wait_seconds=wait_seconds)
        try:
            async with AsyncExitStack() as stack:
                if exclusive and database.is_postgresql:
                    await stack.enter_async_context(database._held())
                async with database.write(durable=True) as connection:
                    await connection.run_sync(migrate)
                yield database
        finally:
            await engine.dispose()

    @classmethod
    @asynccontextmanager
    async def open_as_it_is(cls, settings: StoreSettings, data: Path) -> AsyncIterator["Database"]:
        """Connected, not migrated: to look at what is there. A SQLite file must exist."""
        engine = _engine(_url(settings, data), _WAIT_SECONDS)
        try:
            yield cls(engine, wait_seconds=_WAIT_SECONDS)
        finally:
            await engine.dispose()

    async def revision(self) -> str | None:
        """Its schema's revision, `HEAD` of polydev.store.migrate when it is up to date."""
        async with self.read() as connection:
            return await connection.run_sync(revision)

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    @property
    def is_postgresql(self) -> bool:
        return self._turn is None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self, *, durable: bool = False) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._turn_to_write(), self._writers[durable].begin() as connection:
                yield connection

    async def ping(self) -> None:
        """Raises StoreProblem when the database does not answer."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        with _translated():
            connection = await self._engine.connect()
        try:
            with _translated():
                # A transaction left open would keep the server from cleaning its tables up.
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                taken = await connection.scalar(
                    text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}
                )
            if not taken:
                raise SetupProblem(
                    "Another polydev works on the database that store.url names.",
                    remedy="Stop that one, or give this one a database of its own.",
                    reason="database_in_use",
                )
            yield
        finally:
            # Not back to the pool: the lock goes with the session.
            await connection.invalidate()
            await connection.close()

    @asynccontextmanager
    async def _turn_to_write(self) -> AsyncIterator[None]:
        if self._turn is None:
            yield
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._turn.acquire()
        except TimeoutError as error:
            raise _busy() from error
        try:
            yield
        finally:
            self._turn.release()


def _url(settings: StoreSettings, data: Path) -> URL:
    if not settings.url:
        return URL.create(_DRIVERS["sqlite"], database=str(data / DATABASE_FILE))
    try:
        url = make_url(settings.url)
        driver = _DRIVERS[url.get_backend_name()]
    except (ArgumentError, KeyError):
        # Without the URL or a cause that may quote it: it may hold a password.
        raise SetupProblem(
            "store.url is not the URL of a database that polydev can use.",
            remedy="Give postgresql://user:password@host/name or sqlite:////path, or leave it out.",
        ) from None
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise SetupProblem(
                "store.url names a SQLite database without a file.",
                remedy="Give sqlite:////path/to/file, or leave it out.",
            )
        url = url.set(database=str(data / url.database))
    return url.set(drivername=driver)


def _engine(url: URL, wait_seconds: float) -> AsyncEngine:
    common: dict[str, Any] = {
        "pool_size": _POOL,
        "max_overflow": 0,
        "pool_timeout": wait_seconds,
        "hide_parameters": True,  # an error's text never shows what was to be stored
    }
    if url.get_backend_name() == "postgresql":
        common["pool_size"] += 1  # one holds the lock of an exclusive gateway
        bounds = {"timeout": wait_seconds, "command_timeout": _STATEMENT_SECONDS}
        return create_async_engine(url, pool_pre_ping=True, connect_args=bounds, **common)
    _make_private_file(Path(url.database or ""))
    engine = create_async_engine(url, connect_args={"timeout": wait_seconds}, **common)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _make_private_file(path: Path) -> None:
    """An empty database, for its owner only (SQLite would let others read it).

    Made aside and linked into place: turning a file to WAL fails at once when another process
    does the same, and closing it would take away the locks that SQLite holds on it elsewhere in
    this process.
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        os.close(descriptor)
        try:
            with closing(sqlite3.connect(name)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            with suppress(FileExistsError):
                os.link(name, path)
        finally:
            Path(name).unlink()
    except (OSError, sqlite3.Error) as error:
        raise StoreProblem(
            f"The database file {path} cannot be made: {error}.",
            remedy="Give this user access to it, or set POLYDEV_DATA or POLYDEV_STORE__URL.",
            reason="unreachable",
        ) from error


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # The driver's own transaction control begins late and never IMMEDIATE; `_begin_sqlite` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    cursor.close()


def _begin_sqlite(connection: SyncConnection) -> None:
    options = connection.get_execution_options()
    if not options.get("polydev_write"):
        return  # a read is one statement, which SQLite isolates by itself
    # FULL syncs the log at commit, and with it everything committed before.
    level = "FULL" if options.get("polydev_durable") else "NORMAL"
    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
    # A transaction that turns into a writer later can fail at once in place of waiting its turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PolydevError:
        raise
    except IntegrityError as error:
        if _is_dangling(error):
            raise NotFound(
                "Something that this refers to does not exist.", remedy="Look it up again."
            ) from error
        raise Conflict("This exists already.", remedy="Use the existing one.") from error
    except DBAPIError as error:
        raise _problem(error) from error
    except PoolTimeout as error:
        raise _busy() from error
    except (OSError, TimeoutError) as error:
        raise _unreachable(str(error) or type(error).__name__) from error


def _problem(error: DBAPIError) -> StoreProblem:
    cause = str(error.orig).split("\n", maxsplit=1)[0]
    code = _code(error)
    if code in ("SQLITE_FULL", "53100") or (
        code == "SQLITE_IOERR_WRITE" and "full" in cause.lower()
    ):
        return StoreProblem(
            "The disk that holds the database is full; what was being written is not stored.",
            remedy="Free space on it; polydev continues by itself.",
            reason="disk_full",
        )
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return _busy()
    if code in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return StoreProblem(
            "The database file is damaged, or is not a database.",
            remedy="Restore it from a backup.",
            reason="damaged",
        )
    if error.connection_invalidated or code.startswith(("08", "57P", "SQLITE_CANTOPEN")):
        return _unreachable(cause)
    return StoreProblem(f"The database failed: {cause}.", remedy="Look at the database's own log.")


def _code(error: DBAPIError) -> str:
    """SQLite's name of the error, or PostgreSQL's SQLSTATE; empty when there is neither."""
    orig: Any = error.orig
    if isinstance(orig, sqlite3.Error):
        return getattr(orig, "sqlite_errorname", "")
    return getattr(orig, "sqlstate", None) or ""


def _is_dangling(error: IntegrityError) -> bool:
    return _code(error) in ("SQLITE_CONSTRAINT_FOREIGNKEY", "23503")


def _busy() -> StoreProblem:
    return StoreProblem(
        "The database was busy for too long; nothing was written.",
        remedy="Try again. If it lasts, see what else has the database open.",
        reason="busy",
    )


def _unreachable(cause: str) -> StoreProblem:
    return StoreProblem(
        f"The database cannot be reached: {cause}.",
        remedy="Check that it runs and that POLYDEV_STORE__URL is right.",
        reason="unreachable",
    )
