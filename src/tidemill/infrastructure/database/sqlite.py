"""SQLite: one writer thread that shares commits, and readers beside it.

Callers that come while a commit is under way share the next one; nobody waits for company. Each
transaction of a shared commit stands in a savepoint of its own, so that one that fails takes
nothing else with it.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, TypeVar

from sqlalchemy.dialects import sqlite as sqlite_dialect

from tidemill.errors import ConcurrentChange, Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.event_sink import EventSink
from tidemill.foundation.store import Reads, Transaction
from tidemill.foundation.wakeups import Wakeups
from tidemill.infrastructure.database.committed import Committed, tell
from tidemill.infrastructure.database.flow_rows import Reaching, joined
from tidemill.infrastructure.database.many_rows import ManyRows
from tidemill.infrastructure.database.rows import StatementCache
from tidemill.infrastructure.database.schema import prepare_sqlite
from tidemill.infrastructure.database.transaction import DatabaseTransaction
from tidemill.infrastructure.lock_file import lock_file

T = TypeVar("T")

_log = logging.getLogger("tidemill.database")

_SHARED_AT_MOST = 64  # transactions in one commit: bounds what a failed commit takes with it
_BACKWARD_STEP = timedelta(seconds=5)  # a wall clock set back by less is waited out
_RUNS = 3  # how often a transaction that met a moved row is run before that is an error
_KEPT_MOVING = "the same rows kept moving; try again"
_MOST_VALUES = 32_766  # that SQLite binds to one statement
_MOST_ROWS = 256  # in one statement: no row costs less in a longer one

_dialect = sqlite_dialect.dialect(paramstyle="qmark")


class SqliteConnection:
    """The driver, as `rows.Connection` wants it."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self.driver = driver

    def fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        return self.driver.execute(sql, values).fetchall()

    def execute(self, sql: str, values: Sequence[Any]) -> int:
        return self.driver.execute(sql, values).rowcount

    def execute_many(self, statement: ManyRows, rows: Sequence[Sequence[Any]]) -> int:
        return sum(cursor.rowcount for cursor in self._run_many(statement, rows))

    def fetch_many(
        self, statement: ManyRows, rows: Sequence[Sequence[Any]]
    ) -> Sequence[Sequence[Any]]:
        return [row for cursor in self._run_many(statement, rows) for row in cursor.fetchall()]

    def execute_together(self, rows: Mapping[ManyRows, Sequence[Sequence[Any]]]) -> None:
        for statement, its_rows in rows.items():
            self.execute_many(statement, its_rows)

    def _run_many(
        self, statement: ManyRows, rows: Sequence[Sequence[Any]]
    ) -> Iterator[sqlite3.Cursor]:
        most = min(_MOST_ROWS, _MOST_VALUES // len(statement.columns))
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            count = filled_up(len(part))
            values = [value for row in part for value in row]
            values += [None] * (count - len(part)) * len(statement.columns)
            yield self.driver.execute(statement.sql(count), values)


def filled_up(count: int) -> int:
    """To how many rows a statement is filled up, by less than a quarter of them.

    So few different statements are kept prepared, whatever the numbers of rows: to prepare one
    takes as long as to run it for fifty.
    """
    step = 1 << max((count - 1).bit_length() - 3, 0)
    return -(-count // step) * step


class SqliteTransaction(DatabaseTransaction):
    """What is SQLite's own."""

    reaching = Reaching(joined)

    def give_way(self) -> None:
        """The one writer is a thread, and stays what it is."""

    def lock_dependencies(self, namespaces: Collection[str]) -> None:
        """Nobody else writes."""


class SqliteEngine:
    """One connection and what runs transactions on it. Not shared between threads."""

    def __init__(self, connection: SqliteConnection, clock: Clock, cache: StatementCache) -> None:
        self._connection = connection
        self._clock = clock
        self._cache = cache
        self._latest = clock.now()

    def commit_together(
        self, bodies: Sequence[Callable[[Transaction], Any]]
    ) -> "list[Committed | BaseException]":
        """Run the bodies in one commit; for each what it returned or raised."""
        if len(bodies) == 1:
            return [self._commit_alone(bodies[0])]
        try:
            with self._transaction():
                return [self._in_savepoint(body) for body in bodies]
        except sqlite3.Error:
            self._cache.definitions.clear()  # one of them may have read what is not there now
        # One of them hit the database's limits: find out which by committing each on its own.
        return [self._commit_alone(body) for body in bodies]

    def _commit_alone(self, body: Callable[[Transaction], Any]) -> "Committed | BaseException":
        for _ in range(_RUNS):
            try:
                with self._transaction():
                    transaction = self._begin()
                    committed = Committed(body(transaction), transaction)
                    transaction.finish()
            except sqlite3.Error as error:
                self._cache.definitions.clear()
                return unavailable(error)
            except ConcurrentChange:
                continue
            except BaseException as error:
                return error
            return committed
        return Unavailable(_KEPT_MOVING)

    def _in_savepoint(self, body: Callable[[Transaction], Any]) -> "Committed | BaseException":
        driver = self._connection.driver
        for _ in range(_RUNS):
            driver.execute("SAVEPOINT body")
            transaction = self._begin()
            try:
                result = body(transaction)
                transaction.finish()
            except sqlite3.Error:
                raise
            except ConcurrentChange:
                driver.execute("ROLLBACK TO body")
                driver.execute("RELEASE body")
            except BaseException as error:
                driver.execute("ROLLBACK TO body")
                driver.execute("RELEASE body")
                return error
            else:
                driver.execute("RELEASE body")
                return Committed(result, transaction)
        return Unavailable(_KEPT_MOVING)

    def _begin(self) -> SqliteTransaction:
        return SqliteTransaction(self._connection, self._cache, self._now())

    def _now(self) -> datetime:
        now = self._clock.now()
        if now < self._latest <= now + _BACKWARD_STEP:
            return self._latest
        self._latest = now
        return now

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        driver = self._connection.driver
        if driver.in_transaction:  # the rollback of an earlier one failed as well
            driver.execute("ROLLBACK")
        driver.execute("BEGIN IMMEDIATE")
        try:
            yield
            driver.execute("COMMIT")
        except BaseException:
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            raise


class SqliteStore:
    """The embedded database in one file, which it locks against a second process."""

    def __init__(
        self,
        path: Path,
        lock: IO[str],
        clock: Clock,
        wakeups: Wakeups,
        sinks: Sequence[EventSink],
        readers: int,
    ) -> None:
        self._path = path
        self._clock = clock
        self._wakeups = wakeups
        self._sinks = sinks
        self._cache = StatementCache(_dialect)
        self._bodies: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="sqlite-reader")
        self._local = threading.local()
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._lock = lock
        connection = open_database(path)
        try:
            engine = SqliteEngine(connection, clock, self._cache)
        except sqlite3.Error as error:
            connection.driver.close()
            raise unavailable(error) from error
        self._writer = threading.Thread(
            target=self._write, args=(connection, engine), name="sqlite-writer"
        )
        self._writer.start()

    @classmethod
    async def open(
        cls,
        path: Path,
        clock: Clock,
        wakeups: Wakeups,
        sinks: Sequence[EventSink] = (),
        *,
        readers: int = 2,
    ) -> "SqliteStore":
        """Lock the file, bring its schema up to date and begin; raises Unavailable.

        `readers` is how many reads may go on at once.
        """
        lock = lock_file(path.with_name(path.name + ".lock"))
        try:
            await asyncio.to_thread(prepare_sqlite, path)
            return cls(path, lock, clock, wakeups, sinks, readers)
        except BaseException:
            lock.close()
            raise

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        if self._is_closed:
            raise Unavailable("the database is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._bodies.put(_Waiting(body, future))
        return await future

    async def read(self, body: Callable[[Reads], T]) -> T:
        if self._is_closed:
            raise Unavailable("the database is closed")
        return await self._loop.run_in_executor(self._readers, self._read, body)

    async def check(self) -> None:
        # An empty transaction passes the writer, and reads a table: both must be in order.
        await self.transact(lambda t: t.last_event())

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._bodies.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._lock.close()

    def _write(self, connection: SqliteConnection, engine: SqliteEngine) -> None:
        while (first := self._bodies.get()) is not None:
            waiting = [first, *self._waiting_now()]
            results: list[Committed | BaseException]
            try:
                results = list(engine.commit_together([each.body for each in waiting]))
            except BaseException as error:  # whatever it is, everybody who waits must hear of it
                results = [error] * len(waiting)
            self._loop.call_soon_threadsafe(self._deliver, waiting, results)
        connection.driver.close()

    def _waiting_now(self) -> "list[_Waiting]":
        found: list[_Waiting] = []
        while len(found) < _SHARED_AT_MOST - 1 and not self._bodies.empty():
            item = self._bodies.get()
            if item is None:
                self._bodies.put(None)
                break
            found.append(item)
        return found

    def _deliver(
        self, waiting: "list[_Waiting]", results: "list[Committed | BaseException]"
    ) -> None:
        for each, result in zip(waiting, results, strict=True):
            each.answer(result)
        for result in results:
            if isinstance(result, Committed):
                try:
                    tell(result, self._wakeups, self._sinks)
                except Exception:  # a listener's defect is not the others' loss
                    _log.exception("somebody could not be told of a commit")

    def _read(self, body: Callable[[Reads], T]) -> T:
        connection: SqliteConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self._path)
        return read_snapshot(connection, body, self._cache, self._clock.now())


class _Waiting:
    """A body and the one who waits for it."""

    def __init__(self, body: Callable[[Transaction], Any], future: "asyncio.Future[Any]") -> None:
        self.body = body
        self._future = future

    def answer(self, result: "Committed | BaseException") -> None:
        """Hand over what came of it."""
        if self._future.done():
            return  # the caller was cancelled; what it asked for stands all the same
        if isinstance(result, Committed):
            self._future.set_result(result.result)
        elif isinstance(result, StopIteration):  # no future takes it
            self._future.set_exception(RuntimeError(f"a transaction raised {result!r}"))
        else:
            self._future.set_exception(result)


class InlineSqliteStore:
    """SQLite in memory, run where it is called: without threads a simulation repeats itself."""

    def __init__(
        self,
        clock: Clock,
        wakeups: Wakeups,
        sinks: Sequence[EventSink] = (),
        *,
        schema: bytes,
    ) -> None:
        self._clock = clock
        self._wakeups = wakeups
        self._sinks = sinks
        self._cache = StatementCache(_dialect)
        driver = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        driver.deserialize(schema)
        self._connection = SqliteConnection(driver)
        self._engine = SqliteEngine(self._connection, clock, self._cache)

    def transact_now(self, body: Callable[[Transaction], T]) -> T:
        """`transact` without a loop."""
        committed = self._engine.commit_together([body])[0]
        if not isinstance(committed, Committed):
            raise committed
        tell(committed, self._wakeups, self._sinks)
        result: T = committed.result
        return result

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        return self.transact_now(body)

    def read_now(self, body: Callable[[Reads], T]) -> T:
        """`read` without a loop."""
        return read_snapshot(self._connection, body, self._cache, self._clock.now())

    async def read(self, body: Callable[[Reads], T]) -> T:
        return self.read_now(body)

    async def check(self) -> None:
        self.transact_now(lambda t: t.last_event())

    async def close(self) -> None:
        self._connection.driver.close()


def read_snapshot(
    connection: SqliteConnection, body: Callable[[Reads], T], cache: StatementCache, now: datetime
) -> T:
    """Run `body` on what was committed when it began."""
    try:
        connection.driver.execute("BEGIN")
        try:
            return body(SqliteTransaction(connection, cache, now))
        finally:
            if connection.driver.in_transaction:
                connection.driver.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise unavailable(error) from error


def open_database(path: Path) -> SqliteConnection:
    """The writer's connection. A commit is on the disk before it is answered."""
    return _connect(path, "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


def open_reader(path: Path) -> SqliteConnection:
    """A connection that cannot write."""
    return _connect(path, "query_only = ON")


def _connect(path: Path, *pragmas: str) -> SqliteConnection:
    try:
        driver = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=5, cached_statements=512
        )
        for pragma in ("temp_store = MEMORY", *pragmas):
            driver.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        raise unavailable(error) from error
    return SqliteConnection(driver)


def unavailable(error: sqlite3.Error) -> Unavailable:
    """What a caller can do about what the driver reports; its own words go to the log alone."""
    _log.error("the database refused: %s", error)
    name = getattr(error, "sqlite_errorname", "")
    advice = next((said for kind, said in _ADVICE if name.startswith(kind)), "the log says why")
    return Unavailable(f"the database cannot be used now: {advice}")


_ADVICE = (
    ("SQLITE_BUSY", "it is locked by another program; try again when that one is done"),
    ("SQLITE_FULL", "its disk is full; make room and try again"),
    ("SQLITE_IOERR", "its disk does not answer; check it and try again"),
    ("SQLITE_READONLY", "it cannot be written to; check its file's permissions"),
    ("SQLITE_CANTOPEN", "its file cannot be opened; check the permissions of its directory"),
    ("SQLITE_CORRUPT", "its file is damaged; restore it from a backup"),
    ("SQLITE_NOTADB", "its file is no database; restore it from a backup"),
)
