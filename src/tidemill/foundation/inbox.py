"""What the queue delivered and its worker has not yet claimed."""

from collections import deque

from tidemill.foundation.queue import Delivery, Subscription


class Inbox:
    """Gathers run ids from deliveries; a delivery is acknowledged once all its runs were tried."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._hints: deque[tuple[int, Delivery]] = deque()
        self._open: dict[Delivery, int] = {}

    @property
    def waiting(self) -> int:
        """How many hints are here."""
        return len(self._hints)

    async def wait(self) -> None:
        """Return once there is a hint."""
        if not self._hints:
            self._open_up(await self._subscription.receive())

    async def take(self, at_most: int) -> "list[tuple[int, Delivery]]":
        """Up to so many hints, as soon as there is one."""
        await self.wait()
        return self.take_now(at_most)

    def take_now(self, at_most: int) -> "list[tuple[int, Delivery]]":
        """Up to so many hints that are here."""
        while len(self._hints) < at_most and (delivery := self._subscription.received()):
            self._open_up(delivery)
        return [self._hints.popleft() for _ in range(min(at_most, len(self._hints)))]

    def _open_up(self, delivery: Delivery) -> None:
        run_ids = delivery.message.run_ids
        self._open[delivery] = len(run_ids)
        self._hints.extend((run_id, delivery) for run_id in run_ids)

    async def settle(self, hints: "list[tuple[int, Delivery]]") -> None:
        """The claim of these is committed, or they were found gone."""
        for _, delivery in hints:
            if delivery not in self._open:  # it was given back meanwhile
                continue
            self._open[delivery] -= 1
            if not self._open[delivery]:
                del self._open[delivery]
                await delivery.acknowledge()

    def put_back(self, hints: "list[tuple[int, Delivery]]") -> None:
        """These were not tried after all."""
        self._hints.extendleft(reversed(hints))

    async def close(self) -> None:
        """Give back what was not tried."""
        self._hints.clear()
        for delivery in list(self._open):
            await delivery.refuse()
        self._open.clear()
        await self._subscription.close()
