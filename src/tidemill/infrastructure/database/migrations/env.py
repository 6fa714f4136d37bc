"""Alembic's entry: the connection is handed in by `database.schema`."""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.schema import CreateTable

from tidemill.infrastructure.database.tables import metadata

compatibility = Table("schema_compatibility", MetaData(), Column("fits_from", Text, nullable=False))


def note_what_fits(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
) -> None:
    """In a migration's own transaction: which versions may use the database from now on.

    A migration says so with `fits_from`; one that does not fits its own version alone.
    """
    ctx.execute(CreateTable(compatibility, if_not_exists=True))
    ctx.execute(compatibility.delete())
    literal = Operations(ctx)  # `db sql` prints the statement, values and all
    for revision in step.destination_revision_ids:
        script = context.script.get_revision(revision)
        fits_from = getattr(script.module, "fits_from", revision)
        ctx.execute(compatibility.insert().values(fits_from=literal.inline_literal(fits_from)))


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,  # SQLite can, whatever Alembic thinks of its driver
    transaction_per_migration=True,
    on_version_apply=note_what_fits,
)
with context.begin_transaction():
    context.run_migrations()
