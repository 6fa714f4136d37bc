"""Connections to PostgreSQL, the time that anything on one may take, and what its errors mean.

Whoever waited in vain on a connection hangs up: to roll back over a dead link would take as long
again. A circuit breaker stands before all of them.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tidemill.errors import Unavailable
from tidemill.foundation.clock import SystemClock
from tidemill.infrastructure.database.postgres_direct import LEADS_TO_A_POOLER, refuse_pooler
from tidemill.infrastructure.resilience.circuit_breaker import DEFAULTS, CircuitBreaker

_log = logging.getLogger("tidemill.database")

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 5.0
LOCK_SECONDS = 2.0
# A process that stands still between two statements: its locks go well within a lease.
_IDLE_SECONDS = 3.0
HANGING_SECONDS = STATEMENT_SECONDS + 2.0  # then it is not the database that is slow

NOT_ANSWERED = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_NOT_REACHED = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)


class PostgresPool:
    """A few connections to one database, each for one caller at a time.

    What the database says itself is raised as it is (asyncpg.PostgresError); where it is not
    reached, or every connection stays in use, that is Unavailable.
    """

    def __init__(self, pool: "asyncpg.Pool[Any]", breaker: CircuitBreaker) -> None:
        self._pool = pool
        self._breaker = breaker

    @asynccontextmanager
    async def transaction(self, begin: str = "BEGIN") -> AsyncIterator[Any]:
        """A connection within a transaction that `begin` begins, committed when the block ends
        well."""
        async with self._connection() as driver:
            await driver.execute(begin)
            try:
                yield driver
            except BaseException as error:
                if not _is_silence(error):
                    await driver.execute("ROLLBACK")
                raise
            await driver.execute("COMMIT")

    async def fetch(self, sql: str, *values: Any) -> Sequence[Any]:
        """The rows of one statement, which is a transaction of its own."""
        async with self._connection() as driver:
            rows: Sequence[Any] = await driver.fetch(sql, *values)
        return rows

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with self._breaker.call() as call:
            try:
                driver = await self._acquire()
                try:
                    yield driver
                except BaseException as error:
                    if _is_silence(error):
                        _hang_up(driver)
                    else:
                        call.is_answered()
                    raise
                finally:
                    await self._pool.release(driver)
            except Exception as error:
                if not _is_silence(error):
                    raise
                raise unavailable(error) from error

    async def _acquire(self) -> Any:
        try:
            return await self._pool.acquire(timeout=CONNECT_SECONDS)
        except TimeoutError:
            if self._pool.get_idle_size() or self._pool.get_size() < self._pool.get_max_size():
                raise
            # That says nothing of the database.
            raise Unavailable("all connections to the database are in use; try again") from None


@asynccontextmanager
async def open_pool(
    url: str, size: int, breaker: CircuitBreaker | None = None
) -> AsyncIterator[PostgresPool]:
    """Up to `size` connections; raises Unavailable where there cannot be one."""
    breaker = breaker or CircuitBreaker("database", DEFAULTS, SystemClock())
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=0,  # else it keeps trying behind the breaker's back
            max_size=size,
            timeout=CONNECT_SECONDS,
            command_timeout=HANGING_SECONDS,
            init=refuse_pooler,
            reset=_leave_as_it_is,
            server_settings={
                "application_name": "tidemill",
                "statement_timeout": milliseconds(STATEMENT_SECONDS),
                "lock_timeout": milliseconds(LOCK_SECONDS),
                "idle_in_transaction_session_timeout": milliseconds(_IDLE_SECONDS),
                # To plan anew takes longer than to run; and a plan that was made while a table was
                # empty must hold when it is full.
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
                "jit": "off",  # a small table without an index would look worth compiling for
            },
        )
        async with pool.acquire():
            pass
    except (*NOT_ANSWERED, ValueError) as error:
        raise unavailable(error) from error
    try:
        yield PostgresPool(pool, breaker)
    finally:
        try:
            async with asyncio.timeout(HANGING_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()


def _is_silence(error: BaseException) -> bool:
    """Whether whoever waited on a connection got no answer, or waits no more.

    What the driver says of wrong arguments is a ValueError as well.
    """
    is_cut = isinstance(error, _NOT_REACHED) and not isinstance(error, ValueError)
    return is_cut or isinstance(error, asyncio.CancelledError)


def _hang_up(driver: Any) -> None:
    with contextlib.suppress(asyncpg.InterfaceError):  # it is closed, and back in the pool
        driver.terminate()


async def _leave_as_it_is(_: Any) -> None:
    """No transaction changes its session: to reset it would cost a round trip for nothing."""


def milliseconds(seconds: float) -> str:
    """As PostgreSQL's settings take a time."""
    return str(round(seconds * 1000))


def unavailable(error: BaseException) -> Unavailable:
    """What a caller can do about what the driver reports; its own words go to the log alone."""
    _log.error("the database refused: %s: %s", type(error).__name__, error)
    advice = next((said for kind, said in _ADVICE if isinstance(error, kind)), "the log says why")
    said = f"the database cannot be used now: {advice}"
    return Unavailable(said, was_reached=not isinstance(error, _NOT_REACHED))


_ADVICE: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (asyncpg.ProtocolViolationError, LEADS_TO_A_POOLER),  # its word for all that it refuses
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
    (_NOT_REACHED, "it does not answer; try again"),
)
