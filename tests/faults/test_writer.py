"""The one thread that writes: whatever happens to it, everybody who waits for it hears of it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tidemill.domain.events import RunEvent
from tidemill.errors import Unavailable
from tidemill.foundation.clock import SystemClock
from tidemill.foundation.store import EventPosition, Transaction
from tidemill.foundation.wakeups import Topic
from tidemill.infrastructure.database.sqlite import SqliteStore
from tidemill.infrastructure.database.transaction import DatabaseTransaction
from tidemill.infrastructure.memory_wakeups import MemoryWakeups


class BreakableClock(SystemClock):
    """Fails as often as it is told to."""

    failures = 0

    def now(self) -> datetime:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the clock is broken")
        return datetime.now(UTC)


class DeafSink:
    """A listener with a defect."""

    def publish(self, events: Sequence[RunEvent]) -> None:
        raise RuntimeError("deaf")


class DeafWakeups(MemoryWakeups):
    """Listeners with a defect."""

    def announce(self, topics: Iterable[Topic]) -> None:
        raise RuntimeError("deaf")


@pytest.fixture
def clock() -> BreakableClock:
    return BreakableClock()


@pytest.fixture
async def store(tmp_path: Path, clock: BreakableClock) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "tidemill.db", clock, DeafWakeups(), [DeafSink()])
    yield opened
    await opened.close()


def nothing(transaction: Transaction) -> str:
    return "done"


async def test_those_who_wait_hear_of_a_failure_that_nobody_expected(
    store: SqliteStore, clock: BreakableClock
) -> None:
    clock.failures = 1
    with pytest.raises(RuntimeError, match="the clock is broken"):
        await store.transact(nothing)

    assert await store.transact(nothing) == "done"


@pytest.mark.parametrize("kind", [ValueError, StopIteration, StopAsyncIteration])
async def test_what_a_transaction_raises_reaches_its_caller_and_nobody_else(
    store: SqliteStore, kind: type[Exception]
) -> None:
    def fail(transaction: Transaction) -> None:
        raise kind

    failed, done = await asyncio.gather(
        store.transact(fail), store.transact(nothing), return_exceptions=True
    )
    assert isinstance(failed, RuntimeError if kind is StopIteration else kind)
    assert done == "done"


# A rollback is what SQLite does by itself where a disk is full.
@pytest.mark.parametrize("sql", ["ROLLBACK", "SELECT nosuch"])
async def test_a_transaction_that_the_database_ends_is_refused_and_the_next_one_works(
    store: SqliteStore, sql: str
) -> None:
    def end_early(transaction: DatabaseTransaction) -> None:
        transaction.connection.driver.execute(sql)

    refused = await asyncio.gather(
        *[store.transact(end_early) for _ in range(3)], return_exceptions=True
    )
    assert [type(each) for each in refused] == [Unavailable] * 3
    assert await store.transact(nothing) == "done"


async def test_a_listener_with_a_defect_keeps_nobody_waiting(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    def announce(transaction: Transaction) -> str:
        transaction.announce(Topic.READY)
        return "told"

    assert await asyncio.gather(*[store.transact(announce) for _ in range(3)]) == ["told"] * 3
    assert "somebody could not be told" in caplog.text


@pytest.mark.slow
async def test_a_database_that_is_locked_by_another_program_is_unavailable_until_it_is_free(
    store: SqliteStore, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "tidemill.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(Unavailable, match="locked"):
            await store.transact(nothing)
        assert await store.read(lambda reads: reads.last_event()) == EventPosition()
    finally:
        other.close()

    assert await store.transact(nothing) == "done"


async def test_what_the_driver_says_stands_in_the_log_and_in_no_answer(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    def misspell(transaction: DatabaseTransaction) -> None:
        transaction.connection.driver.execute("SELECT * FROM secret_table")

    with pytest.raises(Unavailable) as refused:
        await store.transact(misspell)
    assert str(refused.value) == "the database cannot be used now: the log says why"
    assert "no such table: secret_table" in caplog.text
