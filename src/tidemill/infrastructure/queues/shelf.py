"""What one subscriber received and has not answered, whatever broker it came from."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from tidemill.errors import Unavailable
from tidemill.foundation.queue import RunMessage

S = TypeVar("S")


class HeldDelivery(Generic[S]):
    """A message as one worker received it; `source` is what the broker knows it by."""

    def __init__(self, shelf: "Shelf[S]", message: RunMessage, source: S) -> None:
        self.message = message
        self.source = source
        self._shelf = shelf

    async def acknowledge(self) -> None:
        self._shelf.settle(self, gives_back=False)

    async def refuse(self) -> None:
        self._shelf.settle(self, gives_back=True)


class Shelf(Generic[S]):
    """Deliveries that wait to be taken, and those that were taken and not answered.

    What is unanswered for `hold_seconds` is given back by itself, so that a worker without room
    keeps nothing from others. `answer(source, gives_back)` is called once for each delivery.
    """

    def __init__(self, hold_seconds: float, answer: Callable[[S, bool], None]) -> None:
        self.wanted = asyncio.Event()  # somebody waits for a delivery
        self.attended = asyncio.Event()  # either this or `neglected`: something was kept too long
        self.attended.set()
        self.neglected = asyncio.Event()
        self._hold_seconds = hold_seconds
        self._answer = answer
        self._waiting: deque[HeldDelivery[S]] = deque()
        self._held: dict[HeldDelivery[S], float] = {}  # until when; the oldest first
        self._per_lane: Counter[str] = Counter()
        self._takers = 0
        self._arrived = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def put(self, message: RunMessage, source: S) -> None:
        """This was delivered."""
        if self._is_closed:
            self._answer(source, True)
            return
        delivery = HeldDelivery(self, message, source)
        self._waiting.append(delivery)
        self._held[delivery] = asyncio.get_running_loop().time() + self._hold_seconds
        self._per_lane[message.lane] += 1
        self._set_timer()
        self.wanted.clear()  # whoever finds nothing says so again
        self._arrived.set()

    async def take(self) -> HeldDelivery[S]:
        """The oldest that waits; raises Unavailable once closed."""
        self.attended.set()
        self.neglected.clear()
        while (delivery := self.take_now()) is None:
            if self._is_closed:
                raise Unavailable("the subscription is closed")
            self._arrived.clear()
            await self._wait_for_arrival()
        return delivery

    async def _wait_for_arrival(self) -> None:
        self._takers += 1
        self.wanted.set()
        try:
            await self._arrived.wait()
        finally:
            self._takers -= 1
            if not self._takers:
                self.wanted.clear()

    def take_now(self) -> HeldDelivery[S] | None:
        """The oldest that waits; None where none does."""
        while self._waiting:
            delivery = self._waiting.popleft()
            if delivery in self._held:
                return delivery
        return None

    def held(self, lane: str) -> int:
        """How many of a lane are here, taken or not, and not answered."""
        return self._per_lane[lane]

    def settle(self, delivery: HeldDelivery[S], *, gives_back: bool) -> None:
        """A delivery was answered; a second answer changes nothing."""
        if self._forget(delivery):
            self._answer(delivery.source, gives_back)

    def forget(self, lost: Callable[[S], bool]) -> None:
        """The broker hands these out again by itself."""
        for delivery in [each for each in self._held if lost(each.source)]:
            self._forget(delivery)

    def close(self) -> None:
        """Give everything back; who waits is told. What is put here later goes back as well."""
        self._is_closed = True
        for delivery in list(self._held):
            self.settle(delivery, gives_back=True)
        self._arrived.set()

    def _forget(self, delivery: HeldDelivery[S]) -> bool:
        if self._held.pop(delivery, None) is None:
            return False
        lane = delivery.message.lane
        self._per_lane[lane] -= 1
        if not self._per_lane[lane]:
            del self._per_lane[lane]
        if not self._held and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    def _set_timer(self) -> None:
        if self._timer is None and self._held:
            oldest = next(iter(self._held.values()))
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(oldest, self._give_back_overdue)

    def _give_back_overdue(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for delivery in [each for each, until in self._held.items() if until <= now]:
            self.settle(delivery, gives_back=True)
            if not self._takers:
                self.attended.clear()
                self.neglected.set()
        self._set_timer()
