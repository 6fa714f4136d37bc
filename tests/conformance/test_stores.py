from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidemill.foundation.store import Store
from tidemill.infrastructure.database.postgres import PostgresStore
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore, SqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance.store_suite import StoreSuite


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class TestSqlite(StoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
        store = await SqliteStore.open(tmp_path / "tidemill.db", clock, MemoryWakeups())
        yield store
        await store.close()


class TestInlineSqlite(StoreSuite):
    @pytest.fixture
    async def store(self, clock: FakeClock) -> AsyncIterator[Store]:
        store = InlineSqliteStore(clock, MemoryWakeups(), schema=empty_schema())
        yield store
        await store.close()


class TestPostgres(StoreSuite):
    @pytest.fixture
    async def store(self, migrated_postgres_url: str, clock: FakeClock) -> AsyncIterator[Store]:
        async with open_pool(migrated_postgres_url, 8) as pool:
            store = PostgresStore(pool, MemoryWakeups(), now=clock.now)
            yield store
            await store.close()
