import pytest

from tidemill.foundation.queue import MessageQueue
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.testing.conformance.queue_suite import QueueSuite


class TestMemoryQueue(QueueSuite):
    @pytest.fixture
    def queue(self) -> MessageQueue:
        return MemoryQueue()
