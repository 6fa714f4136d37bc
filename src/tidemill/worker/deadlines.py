"""Ends attempts whose time is up: one timer for all that a worker holds, not one for each.

Most attempts end long before, so that a timer each would mostly be made to be taken back.
"""

import asyncio
from heapq import heapify, heappop, heappush
from itertools import count

from tidemill.worker.execution import RunningAttempt

_FEW = 64  # entries that are not worth tidying up


class Deadlines:
    """The attempts of one worker by the instant at which they have to end."""

    def __init__(self) -> None:
        self._numbers = count()
        self._entries: list[tuple[float, int, RunningAttempt]] = []  # a heap
        self._over = 0  # about how many of them are of attempts that ended by themselves
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def watch(self, attempt: RunningAttempt) -> None:
        """End it when its time is up, counted from now."""
        if attempt.time_limit is None:
            return
        ends_at = asyncio.get_running_loop().time() + attempt.time_limit[0]
        heappush(self._entries, (ends_at, next(self._numbers), attempt))
        if self._timer is None or ends_at < self._timer.when():
            self._look_at(ends_at)

    def forget_one(self) -> None:
        """An attempt ended by itself; its entry goes when there are many of the kind."""
        self._over += 1
        if self._over > max(_FEW, len(self._entries) // 2):
            self._entries = [entry for entry in self._entries if not entry[2].is_over]
            heapify(self._entries)
            self._over = 0

    def close(self) -> None:
        """End nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, instant: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(instant, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._entries and (self._entries[0][0] <= now or self._entries[0][2].is_over):
            _, _, attempt = heappop(self._entries)
            if attempt.time_limit is not None and not attempt.is_over:
                attempt.end(attempt.time_limit[1])
        if self._entries and self._timer is None:
            self._look_at(self._entries[0][0])
