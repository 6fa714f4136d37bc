"""PostgreSQL: transactions side by side, and whoever loses a race runs again.

Rows that decide something are locked where they are read. What two transactions could decide at
once without sharing a row (room under a concurrency key) is decided under a lock of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import asyncpg
import msgspec
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Table,
    bindparam,
    literal_column,
    or_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import asyncpg as postgres_dialect

from tidemill.domain.events import RunEvent
from tidemill.errors import ConcurrentChange, Unavailable
from tidemill.foundation.event_sink import EventSink
from tidemill.foundation.store import AnswerKey, EventPosition, Reads, StoredEvent, Transaction
from tidemill.foundation.wakeups import Wakeups
from tidemill.infrastructure.database.committed import Committed, tell
from tidemill.infrastructure.database.flow_rows import Reaching
from tidemill.infrastructure.database.postgres_connection import (
    PostgresConnection,
    run_in_greenlet,
)
from tidemill.infrastructure.database.postgres_pool import (
    NOT_ANSWERED,
    PostgresPool,
    unavailable,
)
from tidemill.infrastructure.database.prepared import struct_columns
from tidemill.infrastructure.database.rows import StatementCache
from tidemill.infrastructure.database.schema import Schema
from tidemill.infrastructure.database.tables import run_events
from tidemill.infrastructure.database.transaction import DatabaseTransaction

T = TypeVar("T")

_log = logging.getLogger("tidemill.database")

_RUNS = 8  # how often a transaction that lost a race is run before that is an error
_KEPT_MOVING = "the same rows kept moving; try again"
# A list is planned for what it is asked for: some filters leave few rows of many, others most.
_LOOK = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
    " SET LOCAL plan_cache_mode = auto; SET LOCAL enable_seqscan = on"
)
_LOST_RACES = (
    ConcurrentChange,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
)

_standing = (
    "SELECT version_num, (SELECT fits_from FROM schema_compatibility) AS fits_from,"
    " current_setting('transaction_read_only')::boolean AS is_read_only FROM alembic_version"
)
# In their order, so that no two wait for one another.
_lock_names = (
    "SELECT pg_advisory_xact_lock(place) FROM"
    " (SELECT DISTINCT hashtextextended(name, 0) AS place FROM unnest($1::text[]) AS name"
    " ORDER BY 1) AS places"
)
_try_to_lock_names = (
    "SELECT name FROM unnest($1::text[]) AS name"
    " WHERE pg_try_advisory_xact_lock(hashtextextended(name, 0))"
)


_position = (run_events.c.transaction_id, run_events.c.id)
# Of transactions before which none is under way that might yet append some: what was committed
# later than another may well have the smaller ids.
_settled_events = struct_columns(
    run_events, (*RunEvent.__struct_fields__, "transaction_id", "id")
).where(text("transaction_id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
_events_after = (
    _settled_events.where(
        tuple_(*_position) > tuple_(bindparam("transaction"), bindparam("id")),
        or_(
            bindparam("namespace", type_=run_events.c.namespace.type).is_(None),
            run_events.c.namespace == bindparam("namespace"),
        ),
    )
    .order_by(*_position)
    .limit(bindparam("limit"))
)
_last_event = (
    _settled_events.with_only_columns(*_position)
    .order_by(*(column.desc() for column in _position))
    .limit(1)
)


class _LookingCompiler(postgres_dialect.PGCompiler_asyncpg):
    """Whoever only looks locks nothing."""

    def for_update_clause(self, select: Any, **kw: Any) -> str:
        return ""


class _LookingDialect(postgres_dialect.dialect):
    statement_compiler = _LookingCompiler
    supports_statement_cache = True


def _probed(
    reached: FromClause, table: Table, columns: Sequence[Any], on: ColumnElement[bool]
) -> Select[Any]:
    """As `joined`, row by row: else the planner may read all of `table` at each step of a chain."""
    found = select(*columns).where(on).offset(literal_column("0")).lateral()
    return select(*found.c).join_from(reached, found, true())


class PostgresReads(DatabaseTransaction):
    """What is PostgreSQL's own where somebody looks."""

    reaching = Reaching(_probed)

    def events_after(
        self, position: EventPosition, namespace: str | None, limit: int
    ) -> list[StoredEvent]:
        after = msgspec.structs.asdict(position)
        rows = self.fetch(_events_after, **after, namespace=namespace, limit=limit)
        return [StoredEvent(EventPosition(*row[-2:]), RunEvent(*row[:-2])) for row in rows]

    def last_event(self) -> EventPosition:
        rows = self.fetch(_last_event)
        return EventPosition(*rows[0]) if rows else EventPosition()


class PostgresTransaction(PostgresReads):
    """And where somebody changes."""

    def hold_keys(self, keys: Collection[AnswerKey]) -> set[AnswerKey]:
        by_name = {f"answer/{scope}/{key}": AnswerKey(scope, key) for scope, key in keys}
        held = self.connection.fetch(_try_to_lock_names, (list(by_name),))
        return {by_name[name] for (name,) in held}

    def key_holders(self, keys: Collection[str]) -> dict[str, int]:
        self._decide_alone("key", keys)
        return super().key_holders(keys)

    def key_runners(self, keys: Collection[str]) -> dict[str, int]:
        self._decide_alone("key", keys)
        return super().key_runners(keys)

    def give_way(self) -> None:
        self.connection.execute("SELECT 1", ())

    def lock_dependencies(self, namespaces: Collection[str]) -> None:
        self._decide_alone("dependencies", namespaces)

    def _decide_alone(self, what: str, names: Collection[str]) -> None:
        """Until the commit, nobody else reads what is counted under these names to decide."""
        if names:
            self.connection.fetch(_lock_names, ([f"{what}/{name}" for name in names],))


class PostgresStore:
    """A PostgreSQL database, its schema up to date, that many processes share.

    `reading` leads to a replica, where there is one: what only looks may see it a little late. The
    database's own time is what `now` says in every transaction, unless a test gives `now`.
    """

    def __init__(
        self,
        pool: PostgresPool,
        wakeups: Wakeups,
        sinks: Sequence[EventSink] = (),
        *,
        reading: PostgresPool | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._pool = pool
        self._reading = reading or pool
        self._wakeups = wakeups
        self._sinks = sinks
        self._given_now = now
        self._cache = StatementCache(postgres_dialect.dialect())  # type: ignore[no-untyped-call]
        self._looking = StatementCache(_LookingDialect())  # type: ignore[no-untyped-call]
        self._looking.definitions = self._cache.definitions
        self._under_way: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        # Once begun it is finished, whoever stops waiting for it: what was asked for stands.
        transaction = asyncio.create_task(self._transact(body))
        self._under_way.add(transaction)
        transaction.add_done_callback(self._under_way.discard)
        return await asyncio.shield(transaction)

    async def read(self, body: Callable[[Reads], T]) -> T:
        if self._is_closed:
            raise Unavailable("the database is closed")
        for _ in range(_RUNS):
            try:
                return await self._look(body)
            except _LOST_RACES:  # whoever only looks may still meet a migration
                continue
            except NOT_ANSWERED as error:
                raise unavailable(error) from error
        raise Unavailable(_KEPT_MOVING)

    async def check(self) -> None:
        if self._is_closed:
            raise Unavailable("the database is closed")
        try:
            rows = await self._pool.fetch(_standing)
        except NOT_ANSWERED as error:
            raise unavailable(error) from error
        if not rows or Schema(rows[0]["version_num"], rows[0]["fits_from"]).is_behind():
            raise Unavailable("the database's schema is too old; run `tidemill db upgrade`")
        if rows[0]["is_read_only"]:
            raise Unavailable("the database is a replica, which cannot be written to")

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _look(self, body: Callable[[Reads], T]) -> T:
        async with self._reading.transaction(_LOOK) as driver:
            connection = PostgresConnection(driver, keeps_plans=False)
            reads = PostgresReads(connection, self._looking, await self._now(driver))
            return await run_in_greenlet(lambda: body(reads))

    async def _transact(self, body: Callable[[Transaction], T]) -> T:
        if self._is_closed:
            raise Unavailable("the database is closed")
        for _ in range(_RUNS):
            try:
                committed = await self._commit(body)
            except _LOST_RACES:
                continue
            except NOT_ANSWERED as error:
                raise unavailable(error) from error
            tell(committed, self._wakeups, self._sinks)
            result: T = committed.result
            return result
        raise Unavailable(_KEPT_MOVING)

    async def _commit(self, body: Callable[[Transaction], T]) -> Committed:
        async with self._pool.transaction() as driver:
            connection = PostgresConnection(driver)
            transaction = PostgresTransaction(connection, self._cache, await self._now(driver))
            return Committed(
                await run_in_greenlet(partial(_finish, transaction, body)), transaction
            )

    async def _now(self, driver: Any) -> datetime:
        if self._given_now is not None:
            return self._given_now()
        now: datetime = await driver.fetchval("SELECT now()")
        return now


def _finish(transaction: PostgresTransaction, body: Callable[[Transaction], T]) -> T:
    result = body(transaction)
    transaction.finish()
    return result
