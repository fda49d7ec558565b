"""Outbound proxies of connections."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("connections", sa.Column("proxy", sa.Text()))
    op.add_column("connections", sa.Column("own_proxy", sa.LargeBinary()))


def downgrade() -> None:
    op.drop_column("connections", "own_proxy")
    op.drop_column("connections", "proxy")
