"""Tells facts to a broker, at best: bounded, and nobody waits for it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from tidemill.errors import Unavailable
from tidemill.foundation.queue import Fact

_ROOM = 10_000
_BATCH = 500


class FactTeller:
    """A FactSink that keeps up to 10,000 facts until they are sent.

    `send` raises Unavailable when it has tried as long as it may: what it was given is dropped
    then, and so is what there is no room for.
    """

    def __init__(self, send: Callable[[Sequence[Fact]], Awaitable[None]]) -> None:
        self.dropped = 0
        self._send = send
        self._waiting: deque[Fact] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._is_closed = False

    def tell(self, facts: Sequence[Fact]) -> None:
        free = max(_ROOM - len(self._waiting), 0)
        self._waiting.extend(facts[:free])
        self.dropped += max(len(facts) - free, 0)
        if self._sending is None and self._waiting and not self._is_closed:
            self._sending = asyncio.create_task(self._send_all(), name="facts")

    async def close(self) -> None:
        """Send no more."""
        self._is_closed = True
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending

    async def _send_all(self) -> None:
        try:
            while self._waiting and not self._is_closed:
                at_once = min(len(self._waiting), _BATCH)
                batch = [self._waiting.popleft() for _ in range(at_once)]
                try:
                    await self._send(batch)
                except Unavailable:
                    self.dropped += len(batch)
        finally:
            self._sending = None
