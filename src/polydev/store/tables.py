"""The tables. `migrations/` makes them; a test holds the two equal.

Sealed columns hold what the vault made; this package never looks inside them.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime in both databases; SQLite keeps it as sortable text without zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time must be aware")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

users = Table(
    "users",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("state", String(32), nullable=False),
    Column("created_at", Moment, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("prefix", String(32), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("requests_per_minute", Integer, nullable=False),
    Column("concurrent_runs", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
)

connections = Table(
    "connections",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("provider", String(64), nullable=False),
    Column("state", String(32), nullable=False),
    Column("ownership", String(32), nullable=False),
    Column("identity", String(64), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("reason", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("source", Text),
    Column("proxy", Text),
    # Sealed: an address of its own, or that it has none; null where it follows the setting.
    Column("own_proxy", LargeBinary),
    Column("credential_version", Integer, nullable=False),
    Column("credential", LargeBinary),
    Column("expires_at", Moment),
    Column("checked_at", Moment),
    Column("refreshed_at", Moment),
)

windows = Table(
    "windows",
    metadata,
    Column("connection_id", ForeignKey("connections.id"), primary_key=True),
    Column("kind", String(200), primary_key=True),
    Column("used_fraction", Float),
    Column("resets_at", Moment),
    Column("source", String(32), nullable=False),
    Column("observed_at", Moment, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("connection_id", ForeignKey("connections.id"), nullable=False, index=True),
    Column("key_id", ForeignKey("api_keys.id")),
    Column("provider", String(64), nullable=False),
    Column("model", String(200), nullable=False),
    Column("surface", String(32), nullable=False),
    Column("state", String(32), nullable=False, index=True),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("first_token_at", Moment),
    Column("finished_at", Moment),
    Column("reason", String(32)),
    Column("message", Text, nullable=False),
    Column("retry_at", Moment),
    Column("usage", JSON(none_as_null=True)),
    Column("request", LargeBinary),
    # Set once the sealed texts are gone, so that pruning does not look at old runs for ever.
    Column("texts_pruned_at", Moment),
    Index(None, "user_id", "id"),
    Index(None, "texts_pruned_at", "finished_at"),
)

run_events = Table(
    "run_events",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("first_number", Integer, primary_key=True, autoincrement=False),
    Column("last_number", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

logins = Table(
    "logins",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("method", String(32), nullable=False),
    Column("state", String(32), nullable=False, index=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("command", Text, nullable=False),
    Column("reason", String(32)),
    Column("message", Text, nullable=False),
    Column("connection_id", ForeignKey("connections.id")),
    Column("finished_at", Moment),
    Column("log", JSON, nullable=False),
    Index(None, "user_id", "id"),
)

# Browsers that are signed in to the dashboard.
sign_ins = Table(
    "sign_ins",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("token", Integer, nullable=False),
    Column("expires_at", Moment, nullable=False),
)

facts = Table(
    "facts",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
