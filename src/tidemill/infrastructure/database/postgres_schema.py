"""Which schema a PostgreSQL database has, and the way to the one that this version needs.

Processes never migrate by themselves: several versions may share the database. Whoever migrates
holds a lock, so that two at once do it once; what a kill cuts off is a transaction, and is gone.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tidemill.errors import Unavailable
from tidemill.infrastructure.database.postgres_direct import connect_directly
from tidemill.infrastructure.database.postgres_pool import (
    CONNECT_SECONDS,
    HANGING_SECONDS,
    LOCK_SECONDS,
    NOT_ANSWERED,
    milliseconds,
    unavailable,
)
from tidemill.infrastructure.database.schema import (
    FITS_FROM,
    HEAD,
    REVISION,
    Schema,
    downgrade,
    upgrade,
)

_LOCK = 7_382_746_113  # of this purpose alone, in the database's advisory locks


async def upgrade_postgres(url: str) -> None:
    """Create what is missing; raises Unavailable where the database cannot be used."""
    async with _connected(url) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        if (await _schema_at(connection)).is_behind():
            await _migrate(url, upgrade)


async def downgrade_postgres(url: str, revision: str) -> None:
    """Take the schema back to a revision, `base` being nothing at all; raises InvalidInput."""
    async with _connected(url) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await _migrate(url, partial(downgrade, revision=revision))


async def check_postgres(url: str) -> None:
    """Raises Unavailable unless the schema fits this version."""
    found = await postgres_schema(url)
    if found.is_behind():
        raise Unavailable(
            f"the database's schema is at {found.revision or 'nothing'}, and this version needs "
            f"{HEAD}; run `tidemill db upgrade`"
        )
    found.log_where_newer()


async def postgres_schema(url: str) -> Schema:
    """What a database says of itself; raises Unavailable."""
    async with _connected(url, statement_seconds=HANGING_SECONDS) as connection:
        return await _schema_at(connection)


@asynccontextmanager
async def _connected(
    url: str, *, statement_seconds: float | None = None
) -> "AsyncIterator[asyncpg.Connection[Any]]":
    try:
        connection = await connect_directly(
            url, within_seconds=CONNECT_SECONDS, statement_seconds=statement_seconds
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except NOT_ANSWERED as error:
        raise unavailable(error) from error
    except DBAPIError as error:  # what SQLAlchemy makes of the same errors
        said = error.orig.__cause__ if error.orig is not None else None
        raise unavailable(said or error) from error


async def _schema_at(connection: "asyncpg.Connection[Any]") -> Schema:
    return Schema(
        await _only_value(connection, "alembic_version", REVISION),
        await _only_value(connection, "schema_compatibility", FITS_FROM),
    )


async def _only_value(
    connection: "asyncpg.Connection[Any]", table: str, statement: str
) -> str | None:
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return None
    found: str | None = await connection.fetchval(statement)
    return found


def _is_deadlock(error: DBAPIError) -> bool:
    """With processes that work meanwhile: one of the two had to give way, and may try again."""
    cause = error.orig.__cause__ if error.orig is not None else None
    return isinstance(cause, asyncpg.DeadlockDetectedError)


async def _migrate(url: str, migration: Callable[[Connection], None]) -> None:
    # It loads SQLAlchemy's ORM: a process whose database is up to date does without.
    from sqlalchemy.ext.asyncio import create_async_engine

    # Whoever asks for a table that a migration waits for waits behind it: so it does not for long.
    impatient = {"server_settings": {"lock_timeout": milliseconds(LOCK_SECONDS)}}
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"),
        poolclass=NullPool,
        connect_args=impatient,
    )
    try:
        for last in (False, False, True):
            try:
                async with engine.connect() as connection:
                    await connection.run_sync(migration)
                return
            except DBAPIError as error:
                if last or not _is_deadlock(error):
                    raise
    finally:
        await engine.dispose()
