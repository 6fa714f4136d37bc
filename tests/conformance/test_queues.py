from collections.abc import AsyncIterator

import pytest

from tidemill.foundation.clock import SystemClock
from tidemill.foundation.queue import MessageQueue
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.queues.rabbitmq import RabbitMqQueue
from tidemill.infrastructure.queues.redis_streams import RedisStreamsQueue
from tidemill.testing.conformance.queue_suite import QueueSuite


class TestMemoryQueue(QueueSuite):
    @pytest.fixture
    def queue(self) -> MessageQueue:
        return MemoryQueue()


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
