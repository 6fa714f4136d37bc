"""The use cases run on each engine, and on one of them without what is prepared ahead as well."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import pytest

from tidemill.foundation.store import Reads, Transaction
from tidemill.infrastructure.database.postgres import PostgresStore
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.database.tables import metadata
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.testing.clock import FakeClock
from tidemill.testing.inline import InlineScheduler
from tidemill.testing.services import Postgres

T = TypeVar("T")

# Ids go on counting: definitions that were read are kept under them.
_EMPTY = f"TRUNCATE {', '.join(metadata.tables)}"


@pytest.fixture(params=["unprepared", "prepared", "postgres"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[InlineScheduler]:
    """The use cases on a database of their own, at the beginning of 2026."""
    if request.param != "postgres":
        yield InlineScheduler(prepares=request.param == "prepared")
        return
    postgres: BlockingPostgres = request.getfixturevalue("shared_store")
    with postgres.emptied() as clock:
        yield InlineScheduler(prepares=True, clock=clock, store=postgres)


class BlockingPostgres:
    """A PostgreSQL store for tests that know of no event loop."""

    def __init__(self, url: str) -> None:
        self.clock = FakeClock()
        self._loop = asyncio.new_event_loop()
        self._opening = open_pool(url, 1)
        self._pool = self._loop.run_until_complete(self._opening.__aenter__())
        self._store = PostgresStore(self._pool, MemoryWakeups(), now=self._now)

    def _now(self) -> datetime:
        return self.clock.now()

    @contextmanager
    def emptied(self) -> Iterator[FakeClock]:
        """Nothing is in it, and its time begins anew."""
        self.clock = FakeClock()
        yield self.clock
        self._loop.run_until_complete(self._pool.fetch(_EMPTY))

    def transact_now(self, body: Callable[[Transaction], T]) -> T:
        return self._loop.run_until_complete(self._store.transact(body))

    def read_now(self, body: Callable[[Reads], T]) -> T:
        return self._loop.run_until_complete(self._store.read(body))

    def close(self) -> None:
        """Free what is held."""
        self._loop.run_until_complete(self._store.close())
        self._loop.run_until_complete(self._opening.__aexit__(None, None, None))
        self._loop.close()


@pytest.fixture(scope="session")
def shared_store(shared_postgres: Postgres, postgres_template: str) -> Iterator[BlockingPostgres]:
    """One for all tests of a process."""
    with shared_postgres.fresh(template=postgres_template) as url:
        store = BlockingPostgres(url)
        yield store
        store.close()
