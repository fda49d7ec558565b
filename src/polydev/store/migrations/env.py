"""What alembic runs: the revisions, over the connection that `store/migrate.py` hands in."""

from alembic import context

from polydev.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
# The transaction is the caller's, so that all revisions come into force together.
context.run_migrations()
