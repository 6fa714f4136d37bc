"""Which schema a PostgreSQL database has, and the way to the one that this version needs.

Processes never migrate by themselves: several versions may share the database. Whoever migrates
holds a lock, so that two at once do it once; what a kill cuts off is a transaction, and is gone.
"""

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tidemill.errors import Unavailable
from tidemill.infrastructure.database.postgres_direct import connect_directly
from tidemill.infrastructure.database.postgres_pool import (
    CONNECT_SECONDS,
    HANGING_SECONDS,
    NOT_ANSWERED,
    unavailable,
)
from tidemill.infrastructure.database.schema import HEAD, downgrade, upgrade

_LOCK = 7_382_746_113  # of this purpose alone, in the database's advisory locks


async def upgrade_postgres(url: str) -> None:
    """Create what is missing; raises Unavailable where the database cannot be used."""
    try:
        connection = await connect_directly(url, within_seconds=CONNECT_SECONDS)
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
            await _migrate(url, upgrade)
        finally:
            await connection.close()
    except NOT_ANSWERED as error:
        raise unavailable(error) from error


async def downgrade_postgres(url: str, revision: str) -> None:
    """Take the schema back to a revision, `base` being nothing at all; raises InvalidInput."""
    await _migrate(url, partial(downgrade, revision=revision))


async def _migrate(url: str, migration: Callable[[Connection], None]) -> None:
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"), poolclass=NullPool
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migration)
    finally:
        await engine.dispose()


async def postgres_revision(url: str) -> str | None:
    """The revision that a database is at; None where it is empty."""
    try:
        connection = await connect_directly(
            url, within_seconds=CONNECT_SECONDS, statement_seconds=HANGING_SECONDS
        )
        try:
            if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
                return None
            found: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
            return found
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except NOT_ANSWERED as error:
        raise unavailable(error) from error


async def check_postgres(url: str) -> None:
    """Raises Unavailable unless the schema is the one that this version needs."""
    found = await postgres_revision(url)
    if found != HEAD:
        raise Unavailable(
            f"the database's schema is at {found or 'nothing'}, and this version needs {HEAD}; "
            "run `tidemill db upgrade`, or the version that wrote it"
        )
