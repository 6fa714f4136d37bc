"""A broker that is gone is told of at once, instead of after a time limit for each publish."""

from collections.abc import Collection, Sequence

from tidemill.domain.worker import Worker
from tidemill.foundation.queue import MessageQueue, RunMessage, Subscription
from tidemill.infrastructure.resilience.circuit_breaker import CircuitBreaker


class GuardedQueue:
    """A queue with a circuit breaker before what is asked of it.

    Subscriptions receive by themselves when their broker is back, and wait for it at no one's cost.
    """

    def __init__(self, queue: MessageQueue, breaker: CircuitBreaker) -> None:
        self._queue = queue
        self.carries_all = queue.carries_all
        self._breaker = breaker

    async def publish(self, messages: Sequence[RunMessage]) -> None:
        if messages:
            with self._breaker.call():
                await self._queue.publish(messages)

    async def subscribe(self, worker: Worker) -> Subscription:
        return await self._queue.subscribe(worker)

    async def check(self) -> None:
        with self._breaker.call():
            await self._queue.check()

    async def kept_for(self) -> set[str]:
        with self._breaker.call():
            return await self._queue.kept_for()

    async def tidy(self, gone: Collection[str]) -> None:
        with self._breaker.call():
            await self._queue.tidy(gone)

    async def close(self) -> None:
        await self._queue.close()
