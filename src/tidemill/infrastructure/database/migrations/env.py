"""Alembic's entry: the connection is handed in by `database.schema`."""

from alembic import context

from tidemill.infrastructure.database.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,  # SQLite can, whatever Alembic thinks of its driver
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
