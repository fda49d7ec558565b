"""A database that takes no more, by SQLite's own means."""

from typing import Any

from sqlalchemy import event

from polydev.store import Store


class FullDisk:
    """While `full`, what would make the file grow fails as it does on a full disk."""

    def __init__(self, store: Store) -> None:
        self.full = False
        event.listen(store.runs._database.engine.sync_engine, "begin", self._set)

    def _set(self, connection: Any) -> None:
        # Never below what the file has: that much may still be overwritten.
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages if self.full else 2**30}")


class ReadOnly:
    """While `on`, nothing can be written at all."""

    def __init__(self, store: Store) -> None:
        self.on = False
        # Before a transaction begins: beginning one that writes is what fails.
        event.listen(store.runs._database.engine.sync_engine, "engine_connect", self._set)

    def _set(self, connection: Any) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(f"PRAGMA query_only = {int(self.on)}")
        cursor.close()
