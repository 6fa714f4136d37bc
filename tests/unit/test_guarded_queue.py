"""A broker that is gone is asked by one publish at a time."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from tidemill.errors import Unavailable
from tidemill.foundation.health import BreakerState
from tidemill.foundation.queue import RunMessage
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.resilience.circuit_breaker import BreakerOptions, CircuitBreaker
from tidemill.infrastructure.resilience.guarded_queue import GuardedQueue
from tidemill.testing.builders import worker
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance.queue_suite import SHELL, QueueSuite, take_ids

TWO = BreakerOptions(failure_threshold=2, reset_seconds=1)
MESSAGES = [RunMessage(SHELL, (1,))]


class Broker(MemoryQueue):
    """One that may be gone, or refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Unavailable | None = None
        self.asked = 0

    async def publish(self, messages: Sequence[RunMessage]) -> None:
        await self.check()
        await super().publish(messages)

    async def check(self) -> None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker("message_queue", TWO, clock)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def queue(broker: Broker, breaker: CircuitBreaker) -> GuardedQueue:
    return GuardedQueue(broker, breaker)


class TestGuardedQueue(QueueSuite):
    pass


async def test_a_broker_that_is_gone_is_not_asked_each_time(
    queue: GuardedQueue, broker: Broker, clock: FakeClock
) -> None:
    broker.failure = Unavailable("gone", was_reached=False)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await queue.publish(MESSAGES)
    assert broker.asked == 2

    broker.failure = None
    clock.advance(timedelta(seconds=1))
    await queue.publish(MESSAGES)
    assert await take_ids(await queue.subscribe(worker()), 1) == [1]


async def test_a_check_finds_out_that_a_broker_is_back(
    queue: GuardedQueue, broker: Broker, breaker: CircuitBreaker, clock: FakeClock
) -> None:
    broker.failure = Unavailable("gone", was_reached=False)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await queue.check()
    broker.failure = None
    clock.advance(timedelta(seconds=1))
    await queue.check()

    assert (broker.asked, breaker.state) == (3, BreakerState.CLOSED)


async def test_a_broker_that_refuses_is_asked_each_time(
    queue: GuardedQueue, broker: Broker
) -> None:
    broker.failure = Unavailable("it refuses this password")
    for _ in range(10):
        with pytest.raises(Unavailable):
            await queue.publish(MESSAGES)

    assert broker.asked == 10


async def test_nothing_to_publish_says_nothing_of_the_broker(
    queue: GuardedQueue, broker: Broker, breaker: CircuitBreaker, clock: FakeClock
) -> None:
    broker.failure = Unavailable("gone", was_reached=False)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await queue.publish(MESSAGES)
    clock.advance(timedelta(seconds=1))
    await queue.publish([])

    assert breaker.state is BreakerState.HALF_OPEN
