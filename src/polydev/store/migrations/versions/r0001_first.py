"""Users, keys, connections, windows, runs, events, facts."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("prefix", sa.String(32), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=False),
        sa.Column("concurrent_runs", sa.Integer(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("revoked_at", _MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_keys_user_id"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
    op.create_table(
        "connections",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("ownership", sa.String(32), nullable=False),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("source", sa.Text()),
        sa.Column("credential_version", sa.Integer(), nullable=False),
        sa.Column("credential", sa.LargeBinary()),
        sa.Column("expires_at", _MOMENT),
        sa.Column("checked_at", _MOMENT),
        sa.Column("refreshed_at", _MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_connections"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_connections_user_id"),
    )
    op.create_index("ix_connections_user_id", "connections", ["user_id"])
    op.create_table(
        "windows",
        sa.Column("connection_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(200), nullable=False),
        sa.Column("used_fraction", sa.Float()),
        sa.Column("resets_at", _MOMENT),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("observed_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("connection_id", "kind", name="pk_windows"),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connections.id"], name="fk_windows_connection_id"
        ),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("connection_id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(32)),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("surface", sa.String(32), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT),
        sa.Column("first_token_at", _MOMENT),
        sa.Column("finished_at", _MOMENT),
        sa.Column("reason", sa.String(32)),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("retry_at", _MOMENT),
        sa.Column("usage", sa.JSON(none_as_null=True)),
        sa.Column("request", sa.LargeBinary()),
        sa.Column("texts_pruned_at", _MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_runs_user_id"),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connections.id"], name="fk_runs_connection_id"
        ),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_runs_key_id"),
    )
    op.create_index("ix_runs_connection_id", "runs", ["connection_id"])
    op.create_index("ix_runs_state", "runs", ["state"])
    op.create_index("ix_runs_user_id_id", "runs", ["user_id", "id"])
    op.create_index(
        "ix_runs_texts_pruned_at_finished_at", "runs", ["texts_pruned_at", "finished_at"]
    )
    op.create_table(
        "run_events",
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("first_number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "first_number", name="pk_run_events"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_events_run_id"),
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_facts"),
    )


def downgrade() -> None:
    for table in ("facts", "run_events", "runs", "windows", "connections", "api_keys", "users"):
        op.drop_table(table)
