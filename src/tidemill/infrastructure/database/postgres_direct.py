"""Connections that lead to PostgreSQL itself, and not to a pooler in front of it.

A pooler that hands a session to somebody else after each transaction, as PgBouncer may, takes away
what hangs on one: prepared statements, time limits, LISTEN, the lock of a migration. Some of that
would go wrong in silence, so none of it is tried.
"""

from typing import Any

import asyncpg

from tidemill.errors import Unavailable

LEADS_TO_A_POOLER = (
    "a connection pooler such as PgBouncer answers in its place; let database.url (and "
    "database.read_url) lead to PostgreSQL itself: its own host and port"
)
# What comes of a statement that was prepared in another's session.
_SESSION_CHANGED = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)


async def connect_directly(
    url: str, *, within_seconds: float, statement_seconds: float | None = None
) -> "asyncpg.Connection[Any]":
    """A connection; no statement on it takes longer than `statement_seconds`, where that is given.

    Raises Unavailable where a pooler answers, else as asyncpg does.
    """
    connection: asyncpg.Connection[Any] = await asyncpg.connect(
        url, timeout=within_seconds, command_timeout=statement_seconds
    )
    try:
        await refuse_pooler(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def refuse_pooler(connection: Any) -> None:
    """Raises Unavailable where a pooler stands between this connection and PostgreSQL.

    When a session begins, PostgreSQL says which of its processes serves it; a pooler makes a number
    up, since that process will change.
    """
    try:
        serves = await connection.fetchval("SELECT pg_backend_pid()")
    except _SESSION_CHANGED:
        serves = None
    if serves != connection.get_server_pid():
        raise Unavailable(f"the database cannot be used: {LEADS_TO_A_POOLER}")
