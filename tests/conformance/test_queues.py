from collections.abc import AsyncIterator

import pytest

from tidemill.foundation.clock import SystemClock
from tidemill.foundation.queue import MessageQueue, RunMessage
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.queues.postgres import PostgresQueue
from tidemill.infrastructure.queues.rabbitmq import RabbitMqQueue
from tidemill.infrastructure.queues.redis_streams import RedisStreamsQueue
from tidemill.testing.builders import worker
from tidemill.testing.conformance.queue_suite import QueueSuite


class TestMemoryQueue(QueueSuite):
    @pytest.fixture
    def queue(self) -> MessageQueue:
        return MemoryQueue()

    async def test_what_was_meant_for_a_worker_goes_with_it(self, queue: MessageQueue) -> None:
        leaves = await queue.subscribe(worker("worker-1"))
        await queue.publish([RunMessage("default/shell@worker-1", (n,)) for n in (1, 2)])
        await leaves.receive()
        await leaves.close()
        returns = await queue.subscribe(worker("worker-1"))

        assert returns.received() is None


class TestPostgresQueue(QueueSuite):
    @pytest.fixture
    async def queue(self, migrated_postgres_url: str) -> AsyncIterator[MessageQueue]:
        async with open_pool(migrated_postgres_url, 4) as pool:
            yield PostgresQueue(pool, MemoryWakeups())


class TestRedisStreamsQueue(QueueSuite):
    @pytest.fixture
    async def queue(self, redis_url: str) -> AsyncIterator[MessageQueue]:
        queue = RedisStreamsQueue(redis_url, SystemClock())
        yield queue
        await queue.close()


@pytest.mark.slow
class TestRabbitMqQueue(QueueSuite):
    @pytest.fixture
    async def queue(self, rabbitmq_url: str) -> AsyncIterator[MessageQueue]:
        queue = RabbitMqQueue(rabbitmq_url, SystemClock())
        yield queue
        await queue.close()
