"""The queue of one process: what it holds goes with the process, and the sweep finds it again."""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

from tidemill.domain.task import parse_lane
from tidemill.domain.worker import Worker
from tidemill.errors import Unavailable
from tidemill.foundation.queue import RunMessage
from tidemill.infrastructure.queues.lane_names import lanes_naming, workers_named


class MemoryQueue:
    """Hands each message to one subscriber that serves its lane."""

    carries_all = False

    def __init__(self) -> None:
        self._waiting: dict[str, deque[RunMessage]] = {}
        self._subscriptions: set[MemorySubscription] = set()

    async def publish(self, messages: Sequence[RunMessage]) -> None:
        for message in messages:
            self._waiting.setdefault(message.lane, deque()).append(message)
        self._wake()

    async def subscribe(self, worker: Worker) -> "MemorySubscription":
        subscription = MemorySubscription(self, worker)
        self._subscriptions.add(subscription)
        return subscription

    async def kept_for(self) -> set[str]:
        return workers_named(self._waiting)

    async def tidy(self, gone: Collection[str]) -> None:
        for lane in lanes_naming(gone, self._waiting):
            del self._waiting[lane]

    async def check(self) -> None:
        """It is here."""

    async def close(self) -> None:
        self._waiting.clear()

    def take(self, worker: Worker) -> RunMessage | None:
        """The oldest message of a lane that `worker` serves."""
        for lane, messages in self._waiting.items():
            if messages and worker.serves(parse_lane(lane)):
                # The lane goes to the back, so that no lane hides another.
                self._waiting[lane] = self._waiting.pop(lane)
                return messages.popleft()
        return None

    def put_back(self, message: RunMessage) -> None:
        """Hand it out again, first."""
        self._waiting.setdefault(message.lane, deque()).appendleft(message)
        self._wake()

    def forget(self, subscription: "MemorySubscription") -> None:
        """It receives no more."""
        self._subscriptions.discard(subscription)

    def _wake(self) -> None:
        for subscription in self._subscriptions:
            subscription.arrived.set()


class MemorySubscription:
    """What one worker receives."""

    def __init__(self, queue: MemoryQueue, worker: Worker) -> None:
        self.arrived = asyncio.Event()
        self._queue = queue
        self._worker = worker
        self._unsettled: set[MemoryDelivery] = set()
        self._is_closed = False

    async def receive(self) -> "MemoryDelivery":
        while (delivery := self.received()) is None:
            if self._is_closed:
                raise Unavailable("the subscription is closed")
            self.arrived.clear()
            await self.arrived.wait()
        return delivery

    def received(self) -> "MemoryDelivery | None":
        message = None if self._is_closed else self._queue.take(self._worker)
        if message is None:
            return None
        delivery = MemoryDelivery(self, message)
        self._unsettled.add(delivery)
        return delivery

    async def close(self) -> None:
        self._is_closed = True
        self._queue.forget(self)
        self.arrived.set()
        for delivery in list(self._unsettled):
            await delivery.refuse()
        await self._queue.tidy([self._worker.id])

    def settle(self, delivery: "MemoryDelivery", *, give_back: bool) -> None:
        """A delivery was answered; a second answer changes nothing."""
        if delivery in self._unsettled:
            self._unsettled.discard(delivery)
            if give_back:
                self._queue.put_back(delivery.message)


class MemoryDelivery:
    """A message as one worker received it."""

    def __init__(self, subscription: MemorySubscription, message: RunMessage) -> None:
        self.message = message
        self._subscription = subscription

    async def acknowledge(self) -> None:
        self._subscription.settle(self, give_back=False)

    async def refuse(self) -> None:
        self._subscription.settle(self, give_back=True)
