"""Slots between two trees, and who waits for one.

A slot that comes back is the first waiter's. Others are made meanwhile, one at a time: many quick
commands share few processes, and each of many slow ones has its own soon.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tidemill.worker.executors.slot import Slot

_KEPT = 8  # slots that nobody needs, ready for the next task
_REST_SECONDS = 2.0  # what is above that is kept for so long


class SlotPool:
    """Slots for trees that need no channel of their own."""

    def __init__(self, make: Callable[[], Awaitable[Slot]]) -> None:
        self._make = make
        self._resting: list[_Resting] = []  # the longest first
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._making: asyncio.Task[None] | None = None
        self._retirement: asyncio.TimerHandle | None = None

    async def take(self) -> Slot:
        """A slot; raises what `make` does where none can be made."""
        if self._resting:
            return self._resting.pop().slot
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        if self._making is None:
            self._making = asyncio.create_task(self._make_what_is_waited_for())
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(waiter.result())
            raise

    def give_back(self, slot: Slot) -> None:
        """It is free: for the first who waits, or for who comes next."""
        if not slot.is_connected:
            return
        waiter = self._first_in_line()
        if waiter is not None:
            waiter.set_result(slot)
            return
        now = asyncio.get_running_loop().time()
        self._resting.append(_Resting(slot, now))
        if len(self._resting) > _KEPT and self._retirement is None:
            self._retire_at(now + _REST_SECONDS)

    def forget(self, slot: Slot) -> None:
        """It takes no more trees."""
        self._resting = [each for each in self._resting if each.slot is not slot]

    def _first_in_line(self) -> "asyncio.Future[Slot] | None":
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None

    async def _make_what_is_waited_for(self) -> None:
        try:
            while self._waiting:
                try:
                    slot = await self._make()
                except Exception as error:  # whatever it is, who waits must hear of it
                    waiter = self._first_in_line()
                    if waiter is not None:
                        waiter.set_exception(error)
                else:
                    self.give_back(slot)
        finally:
            self._making = None

    def _retire_at(self, instant: float) -> None:
        self._retirement = asyncio.get_running_loop().call_at(instant, self._retire)

    def _retire(self) -> None:
        """Hang up what has rested for long, but those that are kept."""
        self._retirement = None
        rested_since = asyncio.get_running_loop().time() - _REST_SECONDS
        above = len(self._resting) - _KEPT
        for each in [each for each in self._resting[: max(above, 0)] if each.since <= rested_since]:
            each.slot.hang_up()
        if len(self._resting) > _KEPT:
            self._retire_at(self._resting[0].since + _REST_SECONDS)


class _Resting(NamedTuple):
    """A slot that nobody needs, and since when."""

    slot: Slot
    since: float
