"""Brings a database to this version's schema, in one transaction.

A database that a newer polydev has migrated is left alone: StoreProblem. Several gateways that
start at once on one PostgreSQL wait for one another.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from polydev.errors import StoreProblem

HEAD = "r0004"
DIRECTORY = Path(__file__).parent / "migrations"

# Any number will do, as long as nothing else in the same database takes the same advisory lock.
_LOCK = 7_305_518_221


def migrate(connection: Connection) -> None:
    """To be run inside a write transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    present = revision(connection)
    if present == HEAD:
        return
    # Importing alembic takes longer than everything else here, and is rarely needed.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(DIRECTORY).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if present is not None and present not in known:
        raise StoreProblem(
            f"The database was made by a newer polydev (schema {present}, this one knows {HEAD}).",
            remedy="Use that version, or restore a backup from before it. Nothing was changed.",
            reason="newer_schema",
        )
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def revision(connection: Connection) -> str | None:
    """The schema that the database has; None when it has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found
