"""Alembic's entry: runs on the connection that `adytum.storage.migrate` hands over, and on nothing else."""

from alembic import context

from adytum.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=True,
    version_table="adytum_migrations",
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
