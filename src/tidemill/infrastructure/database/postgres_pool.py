"""Connections to PostgreSQL, the time that anything on one may take, and what its errors mean."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tidemill.errors import Unavailable

_log = logging.getLogger("tidemill.database")

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 5.0
LOCK_SECONDS = 2.0
# A process that stands still between two statements: its locks go well within a lease.
_IDLE_SECONDS = 3.0
_HANGING_SECONDS = STATEMENT_SECONDS + 2.0  # then it is not the database that is slow

NOT_ANSWERED = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


@asynccontextmanager
async def open_pool(url: str, size: int) -> AsyncIterator["asyncpg.Pool[Any]"]:
    """Up to `size` connections; raises Unavailable where there cannot be one."""
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            timeout=CONNECT_SECONDS,
            command_timeout=_HANGING_SECONDS,
            reset=_leave_as_it_is,
            server_settings={
                "application_name": "tidemill",
                "statement_timeout": milliseconds(STATEMENT_SECONDS),
                "lock_timeout": milliseconds(LOCK_SECONDS),
                "idle_in_transaction_session_timeout": milliseconds(_IDLE_SECONDS),
            },
        )
    except (*NOT_ANSWERED, ValueError) as error:
        raise unavailable(error) from error
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(_HANGING_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()


async def _leave_as_it_is(_: Any) -> None:
    """No transaction changes its session: to reset it would cost a round trip for nothing."""


def milliseconds(seconds: float) -> str:
    """As PostgreSQL's settings take a time."""
    return str(round(seconds * 1000))


def unavailable(error: BaseException) -> Unavailable:
    """What a caller can do about what the driver reports; its own words go to the log alone."""
    _log.error("the database refused: %s: %s", type(error).__name__, error)
    advice = next((said for kind, said in _ADVICE if isinstance(error, kind)), "the log says why")
    return Unavailable(f"the database cannot be used now: {advice}")


_ADVICE: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (asyncpg.DiskFullError, "its disk is full; make room and try again"),
    (asyncpg.InvalidAuthorizationSpecificationError, "it refuses this user or password"),
    (asyncpg.InvalidCatalogNameError, "it has no database of this name"),
    (asyncpg.UndefinedTableError, "its schema is missing; run `tidemill db upgrade`"),
    (asyncpg.ReadOnlySQLTransactionError, "it is a replica, which cannot be written to"),
    (asyncpg.TooManyConnectionsError, "it has no connection left; try again"),
    (
        (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError),
        "others hold what is needed; try again",
    ),
    (
        (
            asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError,
            asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.InterfaceError,
            OSError, TimeoutError,
        ),
        "it does not answer; try again",
    ),
)  # fmt: skip
