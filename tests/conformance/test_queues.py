from collections.abc import AsyncIterator

import pytest

from tidemill.foundation.queue import MessageQueue
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.queues.postgres import PostgresQueue
from tidemill.testing.conformance.queue_suite import QueueSuite


class TestMemoryQueue(QueueSuite):
    @pytest.fixture
    def queue(self) -> MessageQueue:
        return MemoryQueue()


class TestPostgresQueue(QueueSuite):
    @pytest.fixture
    async def queue(self, migrated_postgres_url: str) -> AsyncIterator[MessageQueue]:
        async with open_pool(migrated_postgres_url, 4) as pool:
            yield PostgresQueue(pool, MemoryWakeups())
