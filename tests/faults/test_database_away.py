"""A database that is away costs its callers little, and its return is noticed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tidemill.errors import Unavailable
from tidemill.foundation.health import BreakerState
from tidemill.foundation.store import EventPosition
from tidemill.infrastructure.database import postgres_schema
from tidemill.infrastructure.database.postgres import PostgresStore
from tidemill.infrastructure.database.postgres_pool import PostgresPool, open_pool
from tidemill.infrastructure.database.postgres_schema import check_postgres
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.resilience.circuit_breaker import BreakerOptions, CircuitBreaker
from tidemill.testing.clock import FakeClock
from tidemill.testing.faults import Fault, FaultyLink
from tidemill.testing.services import Postgres

TWO = BreakerOptions(failure_threshold=2, reset_seconds=1, longest_reset_seconds=8)
CONNECTIONS = 2


@pytest.fixture
def clock() -> FakeClock:
    """What the breaker goes by."""
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker("database", TWO, clock)


@pytest.fixture
def url(shared_postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """A database that is a test's own, for what is changed of the database itself."""
    with shared_postgres.fresh(template=postgres_template) as found:
        yield found


@pytest.fixture
def link(shared_postgres: Postgres) -> Iterator[FaultyLink]:
    """What is between the pool and the database."""
    with FaultyLink("127.0.0.1", shared_postgres.port) as found:
        yield found


@pytest.fixture
async def pool(url: str, link: FaultyLink, breaker: CircuitBreaker) -> AsyncIterator[PostgresPool]:
    async with open_pool(link.through(url), CONNECTIONS, breaker) as found:
        yield found


@pytest.fixture
async def store(pool: PostgresPool) -> AsyncIterator[PostgresStore]:
    found = PostgresStore(pool, MemoryWakeups())
    yield found
    await found.close()


async def use(store: PostgresStore) -> EventPosition:
    return await store.transact(lambda t: t.last_event())


async def test_callers_are_told_at_once_while_it_is_away_and_one_finds_out_that_it_is_back(
    store: PostgresStore, link: FaultyLink, breaker: CircuitBreaker, clock: FakeClock
) -> None:
    link.fault = Fault.REFUSE
    link.reset_connections()
    for _ in range(2):
        with pytest.raises(Unavailable, match="it does not answer; try again"):
            await use(store)
    asked = link.effects(Fault.REFUSE)
    for _ in range(20):
        with pytest.raises(Unavailable, match="it is asked again within 8 s"):
            await use(store)
    assert link.effects(Fault.REFUSE) == asked

    clock.advance(timedelta(seconds=1))
    with pytest.raises(Unavailable, match="it does not answer; try again"):
        await use(store)
    link.fault = None
    clock.advance(timedelta(seconds=2))
    await asyncio.gather(use(store), use(store), return_exceptions=True)
    assert breaker.state is BreakerState.CLOSED
    await asyncio.gather(*(use(store) for _ in range(5)))


async def test_what_the_database_says_itself_opens_no_breaker(
    pool: PostgresPool, breaker: CircuitBreaker
) -> None:
    for sql, arguments in (
        ("SELECT 1 / 0", ()),
        ("SELECT 1 FROM nowhere", ()),
        ("SELECT $1::int", ("no number",)),
        ("SET statement_timeout = 1; SELECT pg_sleep(600)", ()),
    ):
        for _ in range(2):
            with pytest.raises((asyncpg.PostgresError, ValueError)):
                await pool.fetch(sql, *arguments)

    assert breaker.read().openings == 0


async def test_a_database_whose_answers_are_errors_is_there_again(
    pool: PostgresPool, link: FaultyLink, breaker: CircuitBreaker, clock: FakeClock
) -> None:
    link.fault = Fault.REFUSE
    link.reset_connections()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await pool.fetch("SELECT 1")
    link.fault = None
    clock.advance(timedelta(seconds=1))
    with pytest.raises(asyncpg.PostgresError):
        await pool.fetch("SELECT 1 / 0")

    assert breaker.state is BreakerState.CLOSED


@pytest.mark.slow
async def test_connections_that_are_all_in_use_say_nothing_of_the_database(
    store: PostgresStore, pool: PostgresPool, breaker: CircuitBreaker
) -> None:
    async with pool.transaction() as one, pool.transaction() as other:
        for each in (one, other):
            await each.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        told = await asyncio.gather(*(use(store) for _ in range(2)), return_exceptions=True)

    assert {str(each) for each in told} == {"all connections to the database are in use; try again"}
    assert breaker.state is BreakerState.CLOSED


async def test_whoever_stops_waiting_at_a_dead_link_waits_for_nothing_more(
    store: PostgresStore, link: FaultyLink
) -> None:
    await asyncio.gather(store.check(), store.check())
    link.fault = Fault.BLACK_HOLE
    waiting = asyncio.create_task(use(store))
    checking = asyncio.create_task(store.check())
    await asyncio.to_thread(link.wait_for, Fault.BLACK_HOLE, 2)
    checking.cancel()
    await asyncio.wait([checking, waiting], return_when=asyncio.FIRST_COMPLETED)
    ended = (checking.cancelled(), waiting.done())
    link.fault = None  # which breaks what lost something

    assert ended == (True, False)
    with pytest.raises(Unavailable):
        await waiting
    await store.check()


async def test_a_check_tells_of_a_database_that_cannot_be_written_to(
    store: PostgresStore, pool: PostgresPool, link: FaultyLink, url: str
) -> None:
    await store.check()
    name = url.rpartition("/")[2]
    await pool.fetch(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    link.reset_connections()
    with pytest.raises(Unavailable):  # those that were reset
        await store.check()

    with pytest.raises(Unavailable, match="is a replica"):
        await store.check()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE alembic_version SET version_num = '0001'", "schema is too old"),
        ("DELETE FROM alembic_version", "schema is too old"),
        ("DROP TABLE alembic_version", "schema is missing"),
    ],
)
async def test_a_check_tells_of_a_schema_that_does_not_fit(
    store: PostgresStore, pool: PostgresPool, statement: str, said: str
) -> None:
    await pool.fetch(statement)

    with pytest.raises(Unavailable, match=f"{said}.*run `tidemill db upgrade`"):
        await store.check()


async def test_a_check_is_content_with_the_schema_of_a_newer_version(
    store: PostgresStore, pool: PostgresPool
) -> None:
    await pool.fetch("UPDATE alembic_version SET version_num = '9999'")

    await store.check()


async def test_whoever_starts_gives_up_a_database_that_falls_silent(
    url: str, link: FaultyLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = asyncpg.connect

    async def connect_and_lose(*arguments: Any, **options: Any) -> Any:
        connection = await connect(*arguments, **options)
        link.fault = Fault.BLACK_HOLE
        return connection

    monkeypatch.setattr(asyncpg, "connect", connect_and_lose)
    for limit in ("CONNECT_SECONDS", "HANGING_SECONDS"):
        monkeypatch.setattr(postgres_schema, limit, 0.3)

    with pytest.raises(Unavailable, match="it does not answer"):
        await check_postgres(link.through(url))
    link.wait_for(Fault.BLACK_HOLE)
